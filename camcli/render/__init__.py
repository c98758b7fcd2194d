"""Heatmap + photo -> picture: maps put in their place, colours and styles, boxes and masks, files."""
