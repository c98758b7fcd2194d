"""HTML reports of finished runs: data from the tables, thumbnails of the overlays, and one HTML page."""
