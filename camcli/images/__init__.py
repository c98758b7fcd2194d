"""From a tree of files to pixels, and where in them the network looks. Knows no network."""
