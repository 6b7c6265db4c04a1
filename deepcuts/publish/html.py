"""Makes HTML that text cannot break out of: elements whose text and attributes are always escaped, and a page of them.

The page's content security policy allows only its own style and script, by their hashes; the script reads its data
from JSON inside the page. markupsafe does the escaping. Not jinja2 on top of it: the page is many small parts that
Python chooses and counts, and a function per part is shorter and type-checked.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

SCRIPTS = ("base.js", "curves.js", "overlap.js", "layers.js", "training.js", "trials.js")
_VOID = ("meta", "input", "br", "img", "line", "circle", "rect", "path")

Child = Markup | str | None


def element(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """Make an element: plain children and attribute values are escaped, attributes that are None or False left out.

    `class_` is the attribute class, and an underscore in a name stands for a hyphen: `aria_label`.
    """
    given = {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
    text = "".join(
        f" {key}" if value is True else f' {key}="{escape(str(value))}"'
        for key, value in given.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{text}>" if name in ("meta", "input", "br", "img") else f"<{name}{text}/>")
    return Markup(f"<{name}{text}>{joined(children)}</{name}>")


def joined(children: Iterable[Child]) -> Markup:
    """Join children, with plain text escaped and None left out."""
    return Markup().join(each for each in children if each is not None)


def html_table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[Child]], numbers: Sequence[str] = ()
) -> Markup:
    """Make a table with a caption; the columns named in `numbers` are right-aligned."""
    classes = ["number" if name in numbers else None for name in header]
    head = (element("th", name, scope="col", class_=kind) for name, kind in zip(header, classes, strict=True))
    body = (
        element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, classes, strict=True)))
        for row in rows
    )
    whole = element(
        "table", element("caption", caption), element("thead", element("tr", *head)), element("tbody", *body)
    )
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def section(key: str, title: str, *children: Child) -> Markup:
    """Make a section with its heading; `key` is its id, which links lead to."""
    return element(
        "section", element("h2", title, id=f"{key}-title"), *children, id=key, aria_labelledby=f"{key}-title"
    )


def code(text: str) -> Markup:
    """Make a block of code; it takes the focus, so that the keyboard can scroll it."""
    return element("pre", element("code", text), tabindex=0)


def html_page(title: str, body: Markup, data: Mapping[str, Any]) -> str:
    """Make the whole document; nothing in `title` or `data` can end the tag or the script that it is written into."""
    style, script = _asset("page.css"), "\n".join(("'use strict';", "{", *map(_asset, SCRIPTS), "}"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    )
    block = Markup(f'<script type="application/json" id="data">{_embedded(data)}</script>\n<script>{script}</script>')
    return f'<!doctype html>\n<html lang="en">\n{head}\n{element("body", body, block)}\n</html>\n'


def _asset(name: str) -> str:
    return (files("deepcuts.publish") / "web" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: Mapping[str, Any]) -> str:
    """Return JSON that contains no HTML: <, > and & are written as JavaScript escapes."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
