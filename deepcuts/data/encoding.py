"""Reads a text file that must be UTF-8, and says what it is where it is something else."""

from __future__ import annotations

import codecs
from pathlib import Path

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# How files begin that are no text, whatever their name says.
_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive, such as an Excel file",
    b"\x1f\x8b": "compressed by gzip",
}
# Without a mark, the zeros among the first four bytes tell, since the name of a column begins with Latin letters.
_ZEROS = {"x0x0": "UTF-16LE", "0x0x": "UTF-16BE", "x000": "UTF-32LE", "000x": "UTF-32BE"}


def read_utf8(path: Path) -> str:
    """Return the text of a UTF-8 file, without its byte-order mark.

    Raises ValueError with what the file is instead, or with the first byte that is not UTF-8 and its line; OSError.
    """
    content = path.read_bytes()
    for start, what in _OTHER_FILES.items():
        if content.startswith(start):
            raise ValueError(f"{path} is {what}, not text; save its table as {path.suffix}")
    if other := _other_encoding(content):
        raise ValueError(f"{path} is {other} text, not UTF-8; {_conversion(path, other)}")
    text = content.removeprefix(codecs.BOM_UTF8)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(_first_wrong(path, content, error.start + len(content) - len(text), error)) from None


def _conversion(path: Path, encoding: str) -> str:
    return f"convert it: iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"


def _other_encoding(content: bytes) -> str | None:
    """Return the encoding that a byte-order mark names, or that the zeros among the first bytes show."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    return _ZEROS.get("".join("x" if byte else "0" for byte in content[:4]))


def _first_wrong(path: Path, content: bytes, start: int, error: UnicodeDecodeError) -> str:
    """Say which byte is not UTF-8, in which line, and how it reads in the encoding that it most likely is."""
    line = max(content.count(b"\n", 0, start), content.count(b"\r", 0, start)) + 1
    place = f"{path} is not UTF-8 text: byte {start:,} (from 0), in line {line:,}"
    if error.reason == "unexpected end of data":
        return f"{place}, begins a character that the file's end cuts; is the file cut short?"
    before, after = content[max(0, start - 20) : start], content[start : start + 20]
    around = before.splitlines(keepends=True)[-1:] + after.splitlines()[:1]
    words = b"".join(part for part in around if not part.endswith((b"\r", b"\n"))).decode("cp1252", "replace")
    return (
        f"{place}, is 0x{content[start]:02X} ({error.reason}); in Windows-1252 (Latin-1) it reads {words!r}: if that is"
        f" right, {_conversion(path, 'CP1252')}"
    )
