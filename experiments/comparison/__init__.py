"""Optimizers compared on any model and data: a task's folder brings those two."""
