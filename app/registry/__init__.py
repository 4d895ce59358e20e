"""Namespaces, agents, their immutable versions and what changed between them."""
