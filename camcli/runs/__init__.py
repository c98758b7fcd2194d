"""Work on finished runs: verify, merge, compare, redraw, and export boxes for annotation tools. Imports no torch."""
