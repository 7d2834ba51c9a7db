"""Experiments with optax_radam, run from a checkout with `python -m`."""
