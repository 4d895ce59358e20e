"""The operator console: pages for people, and the JSON behind them. It owns no tables."""
