"""Snapshots: a whole database in one portable file, taken while serving and restored with proof."""
