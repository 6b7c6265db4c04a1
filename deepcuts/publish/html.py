"""HTML that cannot be broken out of: elements whose text and attributes are always escaped, one page of its own.

The page's policy admits just its own style and scripts, by their hashes; what the script needs is JSON inside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

SCRIPTS = ("base.js", "curves.js", "overlap.js", "trials.js")
_VOID = ("meta", "input", "br", "line", "circle", "rect", "path")


class Html(str):
    """Text that is HTML already: made by `element` alone, of escaped parts."""

    __slots__ = ()


Child = Html | str | None


def element(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """An element; plain children and attribute values are escaped, attributes that are None or False left out.

    `class_` is the attribute class, and an underscore in a name is a hyphen: `aria_label`.
    """
    given = {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
    text = "".join(
        f" {key}" if value is True else f' {key}="{escape(str(value))}"'
        for key, value in given.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{text}>" if name in ("meta", "input", "br") else f"<{name}{text}/>")
    return Html(f"<{name}{text}>{joined(children)}</{name}>")


def joined(children: Iterable[Child]) -> Html:
    """Children one after the other, plain text escaped."""
    return Html("".join(each if isinstance(each, Html) else escape(each) for each in children if each is not None))


def html_table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[Child]], numbers: Sequence[str] = ()
) -> Html:
    """A table with a caption; the columns named in `numbers` are set flush right."""
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


def section(key: str, title: str, *children: Child) -> Html:
    return element(
        "section", element("h2", title, id=f"{key}-title"), *children, id=key, aria_labelledby=f"{key}-title"
    )


def code(text: str) -> Html:
    return element("pre", element("code", text), tabindex=0)


def html_page(title: str, body: Html, data: Mapping[str, Any]) -> str:
    """A whole document. No attribute, string or cell of `data` can end the block that it is in."""
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
        Html(f"<style>{style}</style>"),
    )
    block = Html(f'<script type="application/json" id="data">{_embedded(data)}</script>\n<script>{script}</script>')
    return f'<!doctype html>\n<html lang="en">\n{head}\n{element("body", body, block)}\n</html>\n'


def _asset(name: str) -> str:
    return (files("deepcuts.publish") / "web" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON in which nothing looks like HTML: <, > and & are written as escapes of JavaScript."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
