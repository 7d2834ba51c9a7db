"""The seed's CNN under Adam, RAdam and their family; see `python -m` with --help."""
