"""The report of an experiment, made only from its records."""
