"""The report as one file for the browser, which needs no other and no network."""

import base64
import html
import string
from collections.abc import Mapping, Sequence
from typing import Any

import markdown_it
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

_PAGE = string.Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #8885; --shade: #8881; }
body {
  font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p, li { max-width: 48rem; }
p:has(.picture) { max-width: none; }
code { font-size: 0.875em; background: var(--shade); padding: 0.1em 0.3em; }
.picture, .table { display: block; overflow-x: auto; }
.picture { margin: 1.5rem 0; }
img {
  display: block; max-width: 100%; min-width: 40rem; height: auto;
  background: white; border-radius: 4px;
}
table { border-collapse: collapse; font-size: 0.875rem; overflow-wrap: normal; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid var(--line); }
th { text-align: left; vertical-align: bottom; }
td { font-variant-numeric: tabular-nums; }
td[style*="right"] { white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--shade); }
@media print {
  .picture, .table { overflow: visible; }
  td[style*="right"] { white-space: normal; }
  img { min-width: 0; break-inside: avoid; }
}
</style>
</head>
<body>
$body</body>
</html>
""")


def page(markdown: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """The text as a page, with its pictures in it.

    Args:
      markdown: the text.
      title: of the browser's window.
      pictures: PNG files by the names that they have in the text.
    """
    parser = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")
    sources = {
        name: "data:image/png;base64," + base64.b64encode(png).decode()
        for name, png in pictures.items()
    }

    def embed(
        renderer: RendererHTML,
        tokens: Sequence[Token],
        index: int,
        options: Any,
        env: Any,
    ) -> str:
        token = tokens[index]
        token.attrSet("src", sources[str(token.attrGet("src"))])
        picture = renderer.image(tokens, index, options, env)
        return f'<span class="picture">{picture}</span>'

    parser.add_render_rule("image", embed)
    parser.add_render_rule("table_open", lambda *_: '<div class="table">\n<table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
    return _PAGE.substitute(title=html.escape(title), body=parser.render(markdown))
