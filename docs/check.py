"""Checks a built site: `python docs/check.py DIRECTORY`.

Internal links must lead to a file and to an id in it, nothing may be loaded from
elsewhere, and the reference must have every public name.
"""

import functools
import html.parser
import pathlib
import re
import sys
import urllib.parse
from collections.abc import Iterator

import optax_radam


class Page(html.parser.HTMLParser):
    """Ids of a page, its links, and the files that it loads."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.ids: set[str | None] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what a tag says."""
        of = dict(attrs)
        self.ids |= {of.get("id"), of.get("name")}
        if tag == "a":
            self.links.append(of.get("href") or "")
        else:
            self.loads.append(of.get("src") or (tag == "link" and of.get("href")) or "")


page = functools.cache(Page)


def broken(site: pathlib.Path) -> Iterator[str]:
    """Yields a line for every broken link, foreign file and missing name."""
    pages = [p for p in site.rglob("*.html") if "_static" not in p.parts]
    for path in sorted(pages):
        here = page(path)
        for url in filter(None, here.links + here.loads):
            parts = urllib.parse.urlsplit(url)
            if parts.scheme or parts.netloc:
                if url in here.loads and parts.scheme != "data":
                    yield f"{path}: loads {url}"
                continue
            target = path
            if parts.path:
                target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
            fragment = urllib.parse.unquote(parts.fragment)
            if not target.is_file():
                yield f"{path}: {url} is missing"
            elif (
                fragment
                and target.suffix == ".html"
                and fragment not in page(target).ids
            ):
                yield f"{path}: {url} has no such id"
    for path in site.rglob("*.css"):
        for url in re.findall(
            r"(?:url\(|@import\s+)['\"]?((?:https?:)?//[^)'\"]+)", path.read_text()
        ):
            yield f"{path}: loads {url}"
    reference = page(site / "docs/api.html").ids
    for name in optax_radam.__all__:
        if f"optax_radam.{name}" not in reference:
            yield f"docs/api.html: {name} is missing"


if __name__ == "__main__":
    found = [*broken(pathlib.Path(sys.argv[1]).resolve())]
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
