"""Puts into a file a checksum of all its other bytes, and checks it: for tables, tensors, texts and JSON objects.

Parquet's own checksums cover each page of data, and are checked whenever it is read; they say nothing of the footer
and the headers of pages, so `doctor` checks the whole file by ours. Files that an older version wrote have neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal

State = Literal["sound", "damaged", "unverifiable"]

CHECKSUM = "deepcuts.checksum"
LENGTH = 16  # hexadecimal digits
PLACEHOLDER = "0" * LENGTH
# As the footer holds them in Thrift's compact protocol: the key, then the next field, a string of LENGTH bytes.
_TEXT = bytes([0x18, LENGTH])
_BEFORE = CHECKSUM.encode() + _TEXT
_IN_HEADER = f'"{CHECKSUM}":"'.encode()
_HEAD = "# checksum of what follows: "
_KEY = "checksum"
_CHUNK = 1 << 22


def seal_parquet(file: BinaryIO) -> None:
    """Replace the PLACEHOLDER under the key CHECKSUM in a Parquet file's footer, whose length does not change."""
    place = _place(file)
    assert place is not None, "the file was written without a placeholder"
    _write_digest(file, place, _digest_around(file, place - len(_BEFORE), place))


def parquet_state(file: BinaryIO) -> State:
    """Compare every byte of a Parquet file with its checksum. Raises OSError if it cannot be read."""
    place = _place(file)
    known = place is not None
    if place is None:  # of an older version, or its key is damaged: then the last text of that length is the checksum
        place = _place(file, _TEXT)
    if place is None:
        return "unverifiable"
    file.seek(place)
    matches = file.read(LENGTH) == _digest_around(file, place - len(_BEFORE), place)
    if known:
        return "sound" if matches else "damaged"
    return "damaged" if matches else "unverifiable"


def _place(file: BinaryIO, before: bytes = _BEFORE) -> int | None:
    """Return where the checksum stands in a Parquet file, behind the last of certain bytes; None without them."""
    size = file.seek(0, 2)
    if size < 12:
        return None
    file.seek(size - 8)
    footer = min(int.from_bytes(file.read(4), "little"), size - 8)
    file.seek(size - 8 - footer)
    found = file.read(footer).rfind(before)
    return None if found < 0 else size - 8 - footer + found + len(before)


def seal_tensors(file: BinaryIO) -> None:
    """Replace the PLACEHOLDER under the key CHECKSUM in the metadata of a safetensors file."""
    header = _header(file)
    place = 8 + header.index(_IN_HEADER) + len(_IN_HEADER)
    _write_digest(file, place, _digest_around(file, place, place))


def tensors_state(file: BinaryIO) -> State:
    """Compare every byte of a safetensors file with its checksum. Raises OSError if it cannot be read.

    Of one without a checksum only the length is compared, with what its header says.
    """
    header = _header(file)
    try:
        tensors = json.loads(header)
        about = tensors.pop("__metadata__", {})
        ends = 8 + len(header) + max((each["data_offsets"][1] for each in tensors.values()), default=0)
        if CHECKSUM in about:
            place = 8 + header.index(_IN_HEADER) + len(_IN_HEADER)
            return "sound" if about[CHECKSUM].encode() == _digest_around(file, place, place) else "damaged"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):  # no header that safetensors writes
        return "damaged"
    # Another key than those of an older version is the checksum's, with a changed byte.
    return "unverifiable" if set(about) <= {"format", "notes"} and ends == file.seek(0, 2) else "damaged"


def _header(file: BinaryIO) -> bytes:
    """Return the header of a safetensors file, which says what its tensors are; as much of it as there is."""
    size = file.seek(0, 2)
    file.seek(0)
    return file.read(min(int.from_bytes(file.read(8), "little"), size))


def _write_digest(file: BinaryIO, place: int, digest: bytes) -> None:
    file.seek(place)
    file.write(digest)


def _digest_around(file: BinaryIO, begin: int, place: int) -> bytes:
    """Return the checksum of all bytes of a file but those from `begin` to the end of the checksum at `place`."""
    digest = hashlib.sha256()
    file.seek(0)
    left = begin
    while left and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    file.seek(place + LENGTH)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()[:LENGTH].encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:LENGTH]


def seal_text(text: str) -> bytes:
    """Return the bytes of a text in UTF-8, below a line of comment that holds their checksum."""
    content = text.encode()
    return f"{_HEAD}{_digest(content)}\n".encode() + content


def unsealed_text(content: bytes) -> str:
    """Return the text without the line that holds its checksum."""
    known = content.startswith(_HEAD.encode())
    return content[len(_HEAD) + LENGTH + 1 if known else 0 :].decode()


def text_state(content: bytes) -> State:
    """Compare the bytes of a text with the checksum in their first line."""
    first, _, rest = content.partition(b"\n")
    digest = _digest(rest)
    if first == f"{_HEAD}{digest}".encode():
        return "sound"
    if content.startswith(_HEAD.encode()) or first.endswith(digest.encode()):
        return "damaged"
    # A text of an older version: what was cut off or overwritten by zeros is seen all the same.
    return "unverifiable" if content.endswith(b"\n") and b"\0" not in content else "damaged"


def seal_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the checksum of its other entries."""
    rest = _without(value, _KEY)
    return {**rest, _KEY: _digest(json.dumps(rest, sort_keys=True).encode())}


def _without(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value[key] for key in value if key != name}


def json_state(value: Mapping[str, Any]) -> State:
    """Compare the entries of a JSON object with its checksum."""
    if _KEY not in value:
        renamed = any(seal_json(_without(value, name))[_KEY] == value[name] for name in value)
        return "damaged" if renamed else "unverifiable"
    return "sound" if seal_json(value)[_KEY] == value[_KEY] else "damaged"
