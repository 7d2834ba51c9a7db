"""Measured comparisons with peers; each is run with `python -m benchmarks.NAME`."""
