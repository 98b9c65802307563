"""Changes of files: of bytes, of numbers in text, of JSON's values."""

from __future__ import annotations

import copy
import gzip
import json
import re
from typing import Any

import numpy as np

__all__ = ["change_bytes", "change_json", "repack"]

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_NUMBERS = (
    *(b"0", b"-1", b"1", b"2", b"255", b"65536", b"99999", b"2147483648", b"-2147483648"),
    *(b"1e308", b"-1e308", b"1e-300", b"nan", b"inf", b"9" * 40, b"0.5", b""),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 255, 1 << 31, -(1 << 63), 1e308, float("nan")),
    *("", " ", "..", "/dev/zero", "../../etc/passwd", "$__import__('os')", "@a#b%c", "\0", "ä" * 3),
    *("x" * 5000, [], {}, [[]], [None], {"image": 1}, ["a"] * 50),
)


def change_bytes(rng: np.random.Generator, content: bytes, start: int = 0) -> bytes:
    """One to four changes behind ``start``: flips, bytes, cuts, repeats, numbers of text."""
    for _ in range(int(rng.integers(1, 5))):
        content = _change(rng, content, start)
    return content


def _change(rng: np.random.Generator, content: bytes, start: int) -> bytes:
    size = len(content) - start
    if size < 2:
        return content
    # Half of the changes fall into the header, which says how to read the rest.
    reach = min(size, 400) if rng.random() < 0.5 else size
    place = start + int(rng.integers(reach))
    kind = rng.integers(7)
    if kind <= 1:
        flipped = content[place] ^ (1 << int(rng.integers(8)))
        return content[:place] + bytes([flipped]) + content[place + 1 :]
    if kind == 2:
        count = int(rng.choice([1, 2, 4, 8]))
        value = bytes(rng.choice([0, 0x7F, 0x80, 0xFF], count).astype(np.uint8))
        return content[:place] + value + content[place + count :]
    if kind == 3:
        return content[:place]
    if kind == 4:
        return content[:place] + content[place + int(rng.integers(1, 64)) :]
    if kind == 5:
        part = content[place : place + int(rng.integers(1, 64))]
        return content[:place] + part + content[place:]
    numbers = list(_NUMBER.finditer(content, start, start + min(size, 2000)))
    if not numbers:
        return content[:place]
    found = numbers[int(rng.integers(len(numbers)))]
    value = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    return content[: found.start()] + value + content[found.end() :]


def repack(rng: np.random.Generator, content: bytes) -> bytes:
    """Changes of what a gzip file holds, under a checksum that is right."""
    return gzip.compress(change_bytes(rng, gzip.decompress(content)), 1)


def change_json(rng: np.random.Generator, value: Any) -> bytes:
    """One to three values, keys or entries of a document replaced, removed or doubled."""
    if rng.random() < 0.02:
        depth = int(rng.choice([10, 1000, 200_000]))
        return b"[" * depth + b"]" * (depth if rng.random() < 0.5 else 0)
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        places = _places(value)
        if not places:
            break
        holder, key = places[int(rng.integers(len(places)))]
        kind = rng.integers(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif kind == 1:
            holder[f"{key}{rng.integers(3)}"] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(_VALUES[int(rng.integers(len(_VALUES)))])
    text = json.dumps(value).encode()
    return change_bytes(rng, text) if rng.random() < 0.2 else text


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        found.append((value, key))
        found += _places(value[key])
    return found
