"""Reports: runs and scores as an HTML page."""
