"""Python of a Markdown document: all of it, or only what it defines."""

import ast
import pathlib
import re

DOCS = pathlib.Path(__file__).parent.parent / "docs"
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef)


def _python(path):
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
    return "\n".join(blocks)


def run(path):
    """Runs the Python blocks in one namespace, and returns it."""
    namespace = {}
    exec(_python(path), namespace)
    return namespace


def functions(path):
    """Returns a namespace of only the imports, functions and aliases.

    `make docs` runs the pages themselves.
    """
    tree = ast.parse(_python(path))
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, _DEFINITIONS)
        or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute))
    ]
    namespace = {}
    exec(compile(tree, path, "exec"), namespace)
    return namespace
