"""What is done with finished runs: verify, merge, diff, redraw, boxes for annotation tools. Knows no torch and no terminal."""
