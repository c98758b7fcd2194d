"""A page that shows what a run has left: data from the tables, thumbnails from the overlays, one HTML file."""
