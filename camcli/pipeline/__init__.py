"""A run: its model and classes resolved, images read, explained, painted and written, rows in order."""
