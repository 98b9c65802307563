"""JSON files: those that users write or download, and those of an earlier run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: Larger files are not descriptions of data.
_MOST_BYTES = 256 << 20


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it cannot be read, is not JSON, is nested too deeply, or has a key twice; names
            the file.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path} is too large for a JSON file: {path.stat().st_size:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_refuse_constant)
    except _ContentError as error:
        raise ValueError(f"{path} {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error


def read_object(path: str | os.PathLike[str], *needed: str) -> dict[str, Any]:
    """The content of a JSON file that this package wrote.

    Raises:
        ValueError: see :func:`read_json`; or it is not an object with these names. The file is
            named.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object: restore or delete the file")
    if missing := [name for name in needed if name not in content]:
        raise ValueError(
            f"{path} has no '{missing[0]}', which mixseg writes there: restore or delete the file"
        )
    return content


class _ContentError(Exception):
    """JSON that Python would read, and that says something else than its writer meant."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two lists 'training' Python keeps the last, and the cases of the first would vanish.
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise _ContentError(f"has the key '{name}' twice in one place: keep one of them")
        content[name] = value
    return content


def _refuse_constant(name: str) -> Any:
    raise _ContentError(f"holds {name}, which JSON does not allow: write a number")
