"""What the service before this one left behind: reading its files, importing them, showing them."""
