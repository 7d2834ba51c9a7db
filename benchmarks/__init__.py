"""Measured comparisons with peers; run one with `python -m benchmarks.NAME`."""
