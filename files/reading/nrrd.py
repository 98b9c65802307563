"""NRRD, with or without a header of its own, and the segmentations of 3D Slicer."""

from __future__ import annotations

import bz2
import gzip
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixseg.files.reading.streams import drain, named_faults, read_array, read_raw
from mixseg.files.reading.volume import (
    Segment,
    UnreadableError,
    Volume,
    checked_affine,
    checked_size,
    lps_to_ras,
)

_TYPES = {
    "int8": ("signed char", "int8", "int8_t"),
    "uint8": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "int16": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "uint16": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "int32": ("int", "signed int", "int32", "int32_t"),
    "uint32": ("uint", "unsigned int", "uint32", "uint32_t"),
    "int64": (
        *("longlong", "long long", "long long int", "signed long long"),
        *("signed long long int", "int64", "int64_t"),
    ),
    "uint64": (
        *("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    ),
    "float32": ("float",),
    "float64": ("double",),
}
_DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names}
#: Sign of each axis from a space to right–anterior–superior; other spaces count as LPS, as in ITK.
_SPACES = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
_LPS = (-1.0, -1.0, 1.0)
_MOST_HEADER = 1 << 20
_SPARE = 1 << 20
_DETACHED = ("data file", "datafile")
_BESIDE = "copy it to where the header names it, or correct its field 'data file'"
_SEVERAL = ("its voxels lie in several files", "store them in one file")
#: Millimeters of the units of space that are not mm.
_UNITS = {"m": 1e3, "cm": 10.0, "um": 1e-3, "µm": 1e-3, "nm": 1e-6}
_REWRITE = "write it again, for example with 3D Slicer"


def read_nrrd(path: Path, voxels: bool) -> Volume:
    """Read an NRRD file; components and further axes that are not spatial are channels."""
    with open(path, "rb") as file:
        fields, pairs = _fields(file)
        start = file.tell()
    dtype, sizes = _type(fields), _sizes(fields)
    spatial = _spatial_axes(fields, len(sizes))
    others = [axis for axis in range(len(sizes)) if axis not in spatial and sizes[axis] > 1]
    if len(others) > 1 or not 2 <= len(spatial) <= 3:
        raise UnreadableError(
            f"it has {len(sizes)} axes ({'×'.join(map(str, sizes))}), {len(spatial)} of them "
            "spatial",
            "store one frame per file",
        )
    if "complex" in _kinds(fields, len(sizes)):
        raise UnreadableError("its voxels are complex numbers", "store the magnitude")
    size = checked_size(tuple(sizes), dtype.itemsize)
    shape = tuple(sizes[axis] for axis in spatial)
    channels = sizes[others[0]] if others else 1
    affine = checked_affine(_affine(fields, spatial, len(sizes)), len(shape))
    segments = _segments(pairs)
    data = None
    if voxels:
        raw = _data(path, fields, start, size, dtype)
        array = raw.reshape(sizes, order="F").transpose(
            *spatial, *(a for a in range(len(sizes)) if a not in spatial)
        )
        data = array.reshape((*shape, channels) if channels > 1 else shape, order="F")
    return Volume(shape, affine, data, channels, segments=segments)


def _fields(file: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Fields and key/value pairs of the header; the file stands behind it then."""
    if not file.readline(64).startswith(b"NRRD000"):
        raise UnreadableError("it does not begin with an NRRD header")
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    while file.tell() < _MOST_HEADER:
        raw = file.readline(_MOST_HEADER)
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            return fields, pairs
        if line.startswith("#"):
            continue
        key, separator, value = line.partition(":")
        if key.strip().lower() in _DETACHED and value.split()[:1] == ["LIST"]:
            # The files' names follow, a line each, to the end.
            raise UnreadableError(*_SEVERAL)
        if not separator:
            raise UnreadableError(f"its header has a line that is not a field: '{line[:40]}'")
        if value.startswith("="):
            pairs[key.strip()] = value[1:].strip()
        else:
            fields[key.strip().lower()] = value.strip()
    raise UnreadableError("its header does not end")


def _type(fields: Mapping[str, str]) -> np.dtype:
    name = fields.get("type", "").lower()
    if name not in _DTYPES:
        raise UnreadableError(
            f"its voxels have the unsupported type '{name}'", "store them as float or short"
        )
    dtype = np.dtype(_DTYPES[name])
    big = fields.get("endian", "little").lower() == "big"
    return dtype.newbyteorder(">") if big else dtype.newbyteorder("<")


def _sizes(fields: Mapping[str, str]) -> list[int]:
    try:
        sizes = [int(part) for part in fields["sizes"].split()]
        if int(fields["dimension"]) != len(sizes):
            raise ValueError
    except (KeyError, ValueError):
        raise UnreadableError("its header lacks the sizes of its axes") from None
    if len(sizes) > 8:
        raise UnreadableError(f"it has {len(sizes)} axes", "store one frame per file")
    return sizes


def _kinds(fields: Mapping[str, str], dims: int) -> list[str]:
    kinds = fields.get("kinds", "").lower().split()
    return kinds if len(kinds) == dims else ["domain"] * dims


def _vectors(fields: Mapping[str, str], dims: int) -> list[list[float] | None] | None:
    """``space directions``: a vector an axis, None for one that is not spatial."""
    text = fields.get("space directions")
    if text is None:
        return None
    parts = re.findall(r"none|\([^)]*\)", text.lower())
    if len(parts) != dims:
        raise UnreadableError(f"its space directions are not one per axis: {text[:60]}", _REWRITE)
    vectors = [None if part == "none" else _vector(part) for part in parts]
    # pynrrd writes vectors of NaN for 'none'.
    return [None if v is None or all(math.isnan(x) for x in v) else v for v in vectors]


def _vector(text: str) -> list[float]:
    try:
        return [float(part) for part in text.strip("() ").split(",")]
    except ValueError:
        problem = f"its header has '{text[:40]}', which is not a vector"
        raise UnreadableError(problem, _REWRITE) from None


def _spatial_axes(fields: Mapping[str, str], dims: int) -> list[int]:
    vectors, kinds = _vectors(fields, dims), _kinds(fields, dims)
    if vectors is not None:
        axes = [axis for axis in range(dims) if vectors[axis] is not None]
    else:
        axes = [axis for axis in range(dims) if kinds[axis] in ("domain", "space", "???")]
    return axes[:3] if len(axes) > 3 else axes


def _affine(fields: Mapping[str, str], spatial: list[int], dims: int) -> np.ndarray:
    vectors = _vectors(fields, dims)
    origin = np.zeros(3)
    if "space origin" in fields:
        given = _vector(fields["space origin"])[:3]
        origin[: len(given)] = given
    directions = np.eye(3)[:, : len(spatial)]
    if vectors is not None:
        directions = np.zeros((3, len(spatial)))
        for column, axis in enumerate(spatial):
            vector = (vectors[axis] or [])[:3]
            directions[: len(vector), column] = vector
    elif "spacings" in fields:
        try:
            steps = [float(part) for part in fields["spacings"].split()]
            directions = directions * np.abs([steps[axis] for axis in spatial])
        except (ValueError, IndexError):
            raise UnreadableError(
                "its header has spacings that are not numbers", _REWRITE
            ) from None
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if len(units) == 1:
        factor = _UNITS.get(units.pop().strip(), 1.0)
        directions, origin = directions * factor, origin * factor
    signs = np.array(_SPACES.get(fields.get("space", "").lower(), _LPS))
    return lps_to_ras(directions, origin, signs)


def _segments(pairs: Mapping[str, str]) -> tuple[Segment, ...]:
    """Names, values and layers that 3D Slicer writes, in the order of the segments."""
    numbers: dict[str, list[int]] = {"ID": [], "Name": []}
    for key in pairs:
        if match := re.match(r"^Segment(\d{1,6})_(ID|Name)$", key):
            numbers[match[2]].append(int(match[1]))
    found = []
    for number in sorted(numbers["ID"] or numbers["Name"]):
        key = f"Segment{number}_"
        try:
            # Before Slicer 4.11 each segment was a layer of its own, of the value 1.
            value = int(pairs.get(key + "LabelValue", 1))
            layer = int(pairs.get(key + "Layer", number))
        except ValueError:
            raise UnreadableError(f"segment {number} has a value that is not a number") from None
        found.append(Segment(pairs.get(key + "Name", f"Segment_{number + 1}"), value, layer))
    return tuple(found)


def _data(
    path: Path, fields: Mapping[str, str], start: int, size: int, dtype: np.dtype
) -> np.ndarray:
    detached = next((fields[key] for key in _DETACHED if key in fields), None)
    source = path
    if detached is not None:
        if "%" in detached:
            raise UnreadableError(*_SEVERAL)
        source, start = path.parent / detached, 0
        if not source.is_file():
            raise UnreadableError(f"the file of its voxels, {detached}, is missing", _BESIDE)
    encoding = fields.get("encoding", "raw").lower()
    try:
        lines = int(fields.get("line skip", fields.get("lineskip", 0)))
        skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    except ValueError:
        problem = "its header gives no valid number of bytes to skip"
        raise UnreadableError(problem, _REWRITE) from None
    with open(source, "rb") as file, named_faults():
        file.seek(start)
        for _ in range(min(max(lines, 0), 1 << 16)):
            file.readline(_MOST_HEADER)
        if encoding == "raw":
            return read_raw(file, size, skip).view(dtype)
        if encoding in ("gzip", "gz", "bzip2", "bz2"):
            opener: Any = gzip.open if encoding.startswith("g") else bz2.open
            try:
                with opener(file) as stream:
                    read_array(stream, max(skip, 0))
                    data = read_array(stream, size)
                    drain(stream, size + _SPARE)
            except OSError as error:
                raise UnreadableError("its compressed data are damaged") from error
            return data.view(dtype)
        if encoding in ("ascii", "text", "txt"):
            return _numbers(file.read(64 * (size // dtype.itemsize)), size, dtype)
    raise UnreadableError(f"its encoding is '{encoding}'", "store it raw or compressed with gzip")


def _numbers(text: bytes, size: int, dtype: np.dtype) -> np.ndarray:
    try:
        numbers = np.array(text.split(), dtype=dtype)
    except (ValueError, OverflowError):
        raise UnreadableError("its text has voxels that are not numbers") from None
    if numbers.nbytes != size:
        raise UnreadableError(f"it holds {numbers.size:,} of {size // dtype.itemsize:,} voxels")
    return numbers
