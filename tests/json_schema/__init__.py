"""Tests of what is done with JSON Schemas that publishers bring."""
