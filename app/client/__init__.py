"""The developer's side of ``agenthub``: commands that speak to a running service over HTTP."""
