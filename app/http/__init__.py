"""The HTTP edge: everything the scopes' views share, and nothing of any domain."""
