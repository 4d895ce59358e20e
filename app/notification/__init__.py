"""Telling owners what happens to their agents: events, webhooks, deliveries."""
