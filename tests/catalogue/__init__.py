"""The front page and the catalogue."""
