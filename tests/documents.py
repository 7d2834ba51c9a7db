"""Runs the Python of a Markdown document."""

import pathlib
import re

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def run(path):
    """What its Python blocks, in their order and one namespace, leave behind."""
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(block, namespace)
    return namespace
