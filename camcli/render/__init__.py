"""Heatmap + image -> overlay: place the map on the image, colour it in a style, find boxes and masks, encode the file."""
