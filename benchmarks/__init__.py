"""Benchmarks: commands that measure, write records, and turn records into the published tables."""
