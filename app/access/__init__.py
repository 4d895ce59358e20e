"""Who may call: owners, their API keys and their roles."""
