"""Idempotency keys: every write happens once and answers the same bytes when it is repeated."""
