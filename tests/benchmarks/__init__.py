"""Benchmarks of the running service, by hand: ``python -m tests.benchmarks``."""
