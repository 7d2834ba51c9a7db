"""Configuration of Sphinx for the site, which `make docs` builds."""

import importlib.util
import os
import pathlib

import jax
import jax.typing
import optax

# Pages run for seconds, so LLVM optimizes little, as in the tests.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)

# Aliases of unions would be printed as their contents. As classes they keep their
# names, if they are classes before the package is imported.
for module, names in {
    jax.typing: ("ArrayLike", "DTypeLike"),
    optax: ("OptState", "Params", "ScalarOrSchedule", "Schedule", "Updates"),
}.items():
    for name in names:
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
for kind in (optax.GradientTransformation, optax.GradientTransformationExtraArgs):
    kind.__module__ = "optax"
jax.Array.__module__, jax.Array.__qualname__ = "jax", "Array"

import optax_radam  # noqa: E402

MATHJAX = importlib.util.find_spec("sphinx-mathjax-offline")

project = "optax_radam"
html_title = "optax_radam"
author = "The optax_radam authors"
version = release = optax_radam.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
]
# The source is the repository, so that pages may show the committed reports.
root_doc = "docs/index"
include_patterns = ["CHANGELOG.md", "docs/**.md", "experiments/results/**.md"]
exclude_patterns = ["docs/_build"]
default_role = "py:obj"  # docstrings have code and arguments in single backticks
smartquotes_action = "D"  # dashes; quotes in docstrings are Python's
nitpicky = True
# There is no inventory of other packages, nor of what is private.
nitpick_ignore_regex = [("py:.*", r"(?s)(?!optax_radam\.[^_]).*")]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings name paths of the machine

# One file holds MathJax and its glyphs: formulas need no network.
html_static_path = [
    "_static",
    str(pathlib.Path(MATHJAX.origin).parent / "static/mathjax/tex-svg.js"),
]
mathjax_path = "tex-svg.js"
html_css_files = ["narrow.css"]
html_extra_path = ["_root"]
html_theme = "sphinx_book_theme"
html_copy_source = False
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # a second search field
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "use_download_button": False,
}

NOTEBOOK = """\
---
file_format: mystnb
kernelspec: {name: python3, display_name: Python 3, language: python}
---
"""


def make_notebook(app, docname, source):
    """Turns the Python blocks of a page, as GitHub shows them, into MyST-NB's cells."""
    if docname.startswith("docs/") and "```python\n" in source[0]:
        source[0] = NOTEBOOK + source[0].replace("```python\n", "```{code-cell}\n")


def keep_colon(app, what, name, obj, options, lines):
    """Keeps "Returns: An X: ..." whole; Napoleon would take "An X" for a type."""
    for index, line in enumerate(lines[:-1]):
        if line == "Returns:":
            lines[index + 1] = "  : " + lines[index + 1].strip()


def setup(app):
    """Registers the hooks."""
    app.connect("source-read", make_notebook)
    app.connect("autodoc-process-docstring", keep_colon, priority=100)
