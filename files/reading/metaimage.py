"""MetaImage: ``.mha``, and ``.mhd`` with its voxels in another file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixseg.files.reading.streams import named_faults, read_raw
from mixseg.files.reading.volume import (
    UnreadableError,
    Volume,
    checked_affine,
    checked_size,
    lps_to_ras,
)

#: By MetaIO, where a long has four bytes.
_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
#: What helps where the file of the voxels is missing.
_BESIDE = "copy it to where the header names it, or correct its ElementDataFile"
_MOST_LINES = 200
_PART = 1 << 20


def read_metaimage(path: Path, voxels: bool) -> Volume:
    """Read a MetaImage file of any component type."""
    fields, start = _fields(path)
    kind = fields.get("ElementType", "").removesuffix("_ARRAY")
    if kind not in _DTYPES:
        raise UnreadableError(
            f"its voxels have the unsupported type '{kind}'", "store them as MET_FLOAT or MET_SHORT"
        )
    msb = _flag(fields, "BinaryDataByteOrderMSB") or _flag(fields, "ElementByteOrderMSB")
    dtype = np.dtype((">" if msb else "<") + _DTYPES[kind])
    sizes = [int(size) for size in _numbers(fields, "DimSize", None)]
    components = int(_numbers(fields, "ElementNumberOfChannels", [1])[0])
    dims = int(_numbers(fields, "NDims", [len(sizes)])[0])
    extra = sizes[3:]
    if dims != len(sizes) or not 2 <= dims <= 5 or components < 1:
        raise UnreadableError(f"its header says {dims} axes of the sizes {sizes}")
    channels = [size for size in (components, *extra) if size > 1]
    if len(channels) > 1:
        raise UnreadableError(
            f"it has {dims} axes and {components} components", "store one frame per file"
        )
    total = checked_size((components, *sizes), dtype.itemsize)
    shape, count = tuple(sizes[:3]), channels[0] if channels else 1
    affine = checked_affine(_affine(fields, dims), len(shape))
    data = None
    if voxels:
        raw = _data(path, fields, start, total).view(dtype)
        # Components of a voxel lie together, further axes one after the other.
        if components > 1:
            data = np.moveaxis(raw.reshape((components, *shape), order="F"), 0, -1)
        else:
            data = raw.reshape((*shape, count) if count > 1 else shape, order="F")
    return Volume(shape, affine, data, count)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header, and where it ends."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        for _ in range(_MOST_LINES):
            line = file.readline(4096)
            key, separator, value = line.decode("latin-1").partition("=")
            if not separator:
                break
            fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                return fields, file.tell()
    raise UnreadableError("it does not begin with a MetaImage header")


def _numbers(fields: Mapping[str, str], key: str, default: list[Any] | None) -> list[float]:
    if key not in fields and default is not None:
        return default
    try:
        numbers = [float(part) for part in fields[key].split()]
        if not numbers or not np.isfinite(numbers).all():
            raise ValueError
    except (KeyError, ValueError):
        given = fields.get(key)
        what = f"'{given[:40]}'" if given else "nothing"
        raise UnreadableError(
            f"its header has {what} for {key}", "correct the header, or write the file again"
        ) from None
    return numbers


def _flag(fields: Mapping[str, str], key: str) -> bool:
    return fields.get(key, "False").lower() in ("true", "1", "t")


def _affine(fields: Mapping[str, str], dims: int) -> np.ndarray:
    spatial = min(dims, 3)
    given = next((k for k in ("ElementSpacing", "ElementSize") if k in fields), "ElementSpacing")
    spacing = np.array(_numbers(fields, given, [1.0] * dims))[:spatial]
    if len(spacing) < spatial or (spacing <= 0).any():
        listed = " × ".join(f"{s:g}" for s in spacing)
        raise UnreadableError(
            f"its header gives voxels of {listed} mm", "correct its ElementSpacing"
        )
    key = next((k for k in ("TransformMatrix", "Rotation", "Orientation") if k in fields), "")
    matrix = np.array(_numbers(fields, key, list(np.eye(dims).ravel())))
    key = next((k for k in ("Offset", "Position", "Origin") if k in fields), "")
    offset = np.array(_numbers(fields, key, [0.0] * dims))
    if matrix.size != dims * dims or offset.size != dims:
        raise UnreadableError("its header has directions or an offset of other axes")
    # The header has the direction of an axis in a row.
    directions = np.zeros((3, spatial))
    directions[:spatial] = matrix.reshape(dims, dims).T[:spatial, :spatial] * spacing
    origin = np.zeros(3)
    origin[:spatial] = offset[:spatial]
    return lps_to_ras(directions, origin)


def _data(path: Path, fields: Mapping[str, str], start: int, size: int) -> np.ndarray:
    if not _flag({"BinaryData": "True", **fields}, "BinaryData"):
        raise UnreadableError("its voxels are written as text", "store them binary")
    name = fields["ElementDataFile"]
    source = path
    if name.upper() == "LIST" or "%" in name:
        raise UnreadableError("its voxels lie in several files", "store them in one file")
    if name.upper() != "LOCAL":
        source, start = path.parent / name, 0
        if not source.is_file():
            raise UnreadableError(f"the file of its voxels, {name}, is missing", _BESIDE)
    skip = int(_numbers(fields, "HeaderSize", [0])[0])
    with open(source, "rb") as file, named_faults():
        file.seek(start)
        compressed = _flag(fields, "CompressedData")
        return _inflated(file, size) if compressed else read_raw(file, size, skip)


def _inflated(file: Any, size: int) -> np.ndarray:
    """A zlib stream to its end, whose checksum is the last of it."""
    out, done = np.empty(size, np.uint8), 0
    # 32: gzip or zlib, whichever the header says.
    inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)
    waiting = b""
    while not inflater.eof:
        waiting = waiting or file.read(_PART)
        if not waiting:
            raise UnreadableError(f"its voxels end after {done:,} of {size:,} bytes")
        part = inflater.decompress(waiting, _PART)
        waiting = inflater.unconsumed_tail
        if done + len(part) > size:
            raise UnreadableError(
                "it holds more data than its header states",
                "correct its header, or write the file again",
            )
        out[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    if done < size:
        raise UnreadableError(f"its voxels end after {done:,} of {size:,} bytes")
    return out
