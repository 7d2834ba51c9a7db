"""Rules across files: direction of imports, public names, the built wheel."""

import ast
import email
import inspect
import pathlib
import re
import sys
import zipfile

import documents
import hatchling.builders.wheel
import optax
import pytest

import optax_radam

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "optax_radam"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Each may import those before it.
LAYERS = (
    {"_arguments", "_dtypes", "_sharding"},
    {"_sma"},
    {"_history"},
    {"_schedules", "_moments"},
    {"_rectify", "_weight_decay", "_describe"},
    {"_radam", "_schedule_free", "_state_conversion", "explain"},
    {"__init__"},
)
EXPERIMENTS = (
    {"__init__", "train", "config", "allocation"},
    {"optimizers", "schedules", "processes", "checkpoints"},
    {"group"},
    {"records"},
    {"report"},
    {"run"},
    {"main"},
    {"cifar10", "transformer"},
)


def _imported_modules(path):
    """Dotted names that a file imports, those of names inside packages too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(layers, module):
    return next(index for index, layer in enumerate(layers) if module in layer)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem
)
def test_package_imports_one_way_and_only_jax_and_optax(path):
    for name in _imported_modules(path):
        top, *rest = name.split(".")
        if top == "optax_radam":
            assert _layer(LAYERS, rest[0]) < _layer(LAYERS, path.stem), name
        else:
            allowed = {"jax", "optax"} | sys.stdlib_module_names
            allowed |= {"matplotlib"} if path.stem == "explain" else set()
            assert top in allowed, name


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "experiments").rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_experiments_import_public_names_and_one_way(path):
    """A task's folder imports shared modules, never the other way."""
    own = path.parent.name
    layer = _layer(EXPERIMENTS, path.stem if own == "experiments" else own)
    for name in _imported_modules(path):
        assert not name.startswith(("tests", "optax_radam._")), name
        if name.startswith("experiments."):
            other = name.split(".")[1]
            assert other == own or _layer(EXPERIMENTS, other) < layer, name


def test_public_names_are_listed_and_defined():
    assert sorted(optax_radam.__all__) == optax_radam.__all__
    public = {
        name
        for name, value in vars(optax_radam).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(optax_radam.__all__)


@pytest.mark.parametrize(
    "name", [name for name in optax_radam.__all__ if name[0].islower()]
)
def test_docstrings_say_everything(name):
    function = getattr(optax_radam, name)
    doc = inspect.getdoc(function)
    for section in ("Args", "Returns", "Raises", "Examples", "References"):
        assert f"\n{section}:\n" in doc, section
    for argument in inspect.signature(function).parameters:
        assert f"\n  {argument}: " in doc, argument


def test_positional_arguments_are_those_of_optax():
    def positional(function):
        return [
            (p.name, p.default)
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]

    assert positional(optax_radam.radam) == positional(optax.radam)


def test_code_of_the_readme_runs():
    assert documents.run(ROOT / "README.md")


@pytest.mark.parametrize(
    "path",
    [*DOCUMENTS, *sorted((ROOT / "experiments" / "results").rglob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_within_the_repository_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_wheel_holds_the_package_and_needs_only_jax_and_optax(tmp_path):
    builder = hatchling.builders.wheel.WheelBuilder(str(ROOT))
    (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(metadata_name))
    packaged = {n for n in names if ".dist-info/" not in n}
    assert packaged == {
        f"optax_radam/{path.name}"
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Version"] == optax_radam.__version__
    needs = [n for n in metadata.get_all("Requires-Dist") if "extra ==" not in n]
    assert {n.partition(">")[0] for n in needs} == {"jax", "optax"}
