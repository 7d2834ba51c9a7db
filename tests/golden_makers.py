"""The golden files, and the scripts that make them, which need the peer library."""

import importlib.util
import pathlib

FOLDER = pathlib.Path(__file__).parent / "golden"


def load(name):
    """Loads the script of this name as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker
