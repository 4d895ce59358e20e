"""Tests of what operates the service: snapshots."""
