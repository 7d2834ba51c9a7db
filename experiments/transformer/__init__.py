"""A small post-LayerNorm Transformer that sorts; see `python -m` with --help."""
