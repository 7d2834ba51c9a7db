"""PyPI's page, the sdist, the citation, and the commands that CI runs."""

import email
import pathlib
import re
import tarfile
import tomllib

import hatchling.builders.sdist
import hatchling.builders.wheel
import markdown_it
import pytest

import optax_radam

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Its files: names without the folder at the top, and contents."""
    builder = hatchling.builders.sdist.SdistBuilder(str(ROOT))
    directory = str(tmp_path_factory.mktemp("sdist"))
    (path,) = builder.build(directory=directory, versions=["standard"])
    with tarfile.open(path) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read()
            for member in archive.getmembers()
        }


@pytest.fixture(scope="module")
def metadata(sdist):
    """Metadata of the sdist, and so of the wheel, which is made from it."""
    return email.message_from_bytes(sdist["PKG-INFO"])


def _tokens(markdown):
    for token in markdown_it.MarkdownIt().enable("table").parse(markdown):
        yield from [token, *(token.children or [])]


def _needs_the_repository(markdown):
    """Links that are no addresses, pictures, and HTML, which may hide either."""
    for token in _tokens(markdown):
        if token.type == "image" or token.type.startswith("html"):
            yield token.content
        elif token.type == "link_open" and not re.match("https?:", token.attrs["href"]):
            yield token.attrs["href"]


def test_page_on_pypi_needs_nothing_of_the_repository(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = metadata.get_payload()
    assert page.lstrip().startswith("# optax_radam\n")
    assert not list(_needs_the_repository(page))
    blocks = r"```python\n.*?```"
    readme = (ROOT / "README.md").read_text()
    assert re.findall(blocks, page, re.DOTALL) == re.findall(blocks, readme, re.DOTALL)


@pytest.mark.parametrize(
    ("readme", "page"),
    [
        ("the [first\nsteps](docs/a.md#b) of", "the first\nsteps of"),
        ("[`radam`](docs/api.md), [Use](#use)", "`radam`, Use"),
        ("[Optax](https://example.org)", "[Optax](https://example.org)"),
        ("![r_t](docs/r.png)", ""),
        ("[![tests](https://example.org/a.svg)](https://example.org)", ""),
        ('<img src="docs/r.png" width="400">', ""),
        ("rates[0](count)", "rates[0](count)"),
    ],
)
def test_substitutions(readme, page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for rule in hook["substitutions"]:
        readme = re.sub(rule["pattern"], rule["replacement"], readme)
    assert readme == page


def test_sdist_has_sources_and_documents_without_records(sdist):
    tops = {name.partition("/")[0] for name in sdist}
    assert tops == {
        *("benchmarks", "docs", "examples", "experiments", "optax_radam", "tests"),
        *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md"),
        *("Makefile", "pyproject.toml", "PKG-INFO", ".gitignore"),
    }
    assert {"optax_radam/py.typed", "tests/test_sma.py", "docs/index.md"} <= {*sdist}
    generated = ("experiments/results/", "docs/_build/", ".venv")
    assert not [name for name in sdist if name.startswith(generated)]


def test_citation_and_changelog_name_the_version():
    version = re.escape(optax_radam.__version__)
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^version: {version}$", citation, re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## .*\b{version}\b", changelog, re.MULTILINE)


@pytest.mark.parametrize(
    "path",
    [ROOT / "CONTRIBUTING.md", *sorted((ROOT / ".github/workflows").glob("*.yml"))],
    ids=lambda path: path.name,
)
def test_commands_are_in_the_makefile(path):
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    targets = {*re.findall(r"^([\w./-]+):", makefile, re.MULTILINE)}
    wanted = {*re.findall(r"(?:run: |`)make ([\w./-]+)", path.read_text())}
    assert wanted <= targets
