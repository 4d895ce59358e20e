"""Delegation: one agent gives another a task under a budget, and the record of all of it."""
