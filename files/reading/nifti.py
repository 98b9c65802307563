"""NIfTI-1 and NIfTI-2, single files and pairs, compressed or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from mixseg.files.geometry import mm_of_unit
from mixseg.files.reading.streams import GZIP, drain, opened, read_array
from mixseg.files.reading.volume import (
    Remark,
    UnreadableError,
    Volume,
    checked_affine,
    checked_size,
)

#: Largest distance of a corner between two affines of one header, in voxels, that is rounding.
_ROUNDING = 0.1
#: Bytes that may follow the voxels of a compressed file, beyond their own number.
_SPARE = 1 << 20
_MILLIMETERS = 2  # NIfTI-1 code
_HEADER_FIX = "correct the header, or write the file again with another tool"


def read_nifti(path: Path, voxels: bool) -> Volume:
    """Read a NIfTI file; of a pair either part may be named.

    The affine is that of the sform where its code is set, else the qform's, else the voxel sizes;
    it is in mm, whatever unit the header states.
    Axes of one voxel after the third are dropped; one that is left holds the channels. The voxels
    keep their type, or are float32 (float64 for larger ones) where the header scales them.
    """
    head_file, data_file = _parts(path)
    with opened(head_file) as stream:
        head = stream.read(544)
        header = _header(head)
        single = head_file == data_file
        shape = tuple(int(size) for size in header.get_data_shape())
        dtype = _dtype(header)
        size = checked_size(shape, dtype.itemsize)
        spatial, channels = _axes(shape)
        affine, remarks = _affine(header, spatial)
        units = int(header["xyzt_units"])
        mm, qform = mm_of_unit(units), _qform(header)
        affine = _scaled_affine(affine, mm)
        facts = {
            # Of the affines here; a mask is written in the units of its image's file.
            "xyzt_units": units if mm == 1 else (units & ~7) | _MILLIMETERS,
            "file_units": units,
            "sform_code": int(header["sform_code"]),
            "qform_code": int(header["qform_code"]),
            "qform": None if qform is None else _scaled_affine(qform, mm),
        }
        grid = Volume(spatial, affine, None, channels, facts, tuple(remarks))
        if not voxels:
            return grid
        place = float(header["vox_offset"])
        offset = int(place) if math.isfinite(place) else 0
        if single and not header.sizeof_hdr <= place < math.inf:
            where = ", within the header" if math.isfinite(place) else ""
            raise UnreadableError(
                f"its header says that the voxels begin at byte {place:.0f}{where}",
                "correct its vox_offset (352 in most files), or write the file again with another "
                "tool",
            )
        if single:
            data = _voxels(stream, len(head), head, max(offset, 0), size, data_file)
    if not single:
        with opened(data_file) as stream:
            data = _voxels(stream, 0, b"", max(offset, 0), size, data_file)
    array = _scaled(header, data.view(dtype).reshape(shape, order="F"))
    array = array.reshape((*spatial, channels) if channels > 1 else spatial, order="F")
    return Volume(spatial, affine, array, channels, facts, tuple(remarks))


def _scaled_affine(affine: np.ndarray, factor: float) -> np.ndarray:
    return np.diag([factor, factor, factor, 1.0]) @ affine


def _parts(path: Path) -> tuple[Path, Path]:
    """The files of the header and of the voxels."""
    text = str(path)
    compressed = ".gz" if text.lower().endswith(".gz") else ""
    stem = text[: len(text) - len(compressed)]
    if stem.lower().endswith((".hdr", ".img")):
        head, data = (_sibling(Path(stem[:-4]), s) for s in (".hdr", ".img"))
        return head, data
    return path, path


def _sibling(stem: Path, suffix: str) -> Path:
    for name in (suffix, suffix.upper(), f"{suffix}.gz"):
        if (found := stem.with_name(stem.name + name)).is_file():
            return found
    raise UnreadableError(
        f"its other half, {stem.name}{suffix}, is missing", "copy both files of the pair"
    )


def _header(head: bytes) -> Any:
    """The header, unchecked: nibabel's checks replace what is wrong without a word."""
    if head[:2] == GZIP:
        raise UnreadableError("it is compressed twice", "decompress it once: gunzip")
    start = head[:4]
    sizes = {int.from_bytes(start, order) for order in ("little", "big")}
    if 540 in sizes and len(head) >= 540:
        return nib.Nifti2Header(head[:540], check=False)
    if 348 not in sizes or len(head) < 348:
        raise UnreadableError("it does not begin with a NIfTI header")
    if head[344:348] not in (b"n+1\0", b"ni1\0"):
        raise UnreadableError(
            "it is Analyze 7.5, which does not tell left from right, or its header is damaged",
            "convert it to NIfTI",
        )
    return nib.Nifti1Header(head[:348], check=False)


def _dtype(header: Any) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except Exception as error:
        raise UnreadableError("its header names an unknown type of voxels", _HEADER_FIX) from error
    if dtype.names:
        raise UnreadableError(
            "its voxels are RGB colors", "store one number per voxel, with the channels as an axis"
        )
    if dtype.kind == "c":
        raise UnreadableError("its voxels are complex numbers", "store the magnitude")
    if dtype.kind not in "iufb" or dtype.itemsize > 8:
        raise UnreadableError(
            f"its voxels have the unsupported type {dtype}", "store them as float32 or int16"
        )
    return dtype


def _axes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Spatial sizes and channels."""
    kept = [size for size in shape[3:] if size > 1]
    if len(kept) > 1:
        raise UnreadableError(
            f"it has {len(shape)} axes ({'×'.join(map(str, shape))})", "store one frame per file"
        )
    if len(shape) < 2:
        raise UnreadableError("it has one axis", "store a slice or a volume")
    return shape[:3], kept[0] if kept else 1


def _qform(header: Any) -> np.ndarray | None:
    if int(header["qform_code"]) <= 0:
        return None
    try:
        return np.asarray(header.get_qform(), float)
    except Exception:  # nibabel's, of quaternions that are none
        return None


def _affine(header: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, list[Remark]]:
    qform = _qform(header)
    sized = np.array(header["pixdim"][1:4], float)
    if int(header["sform_code"]) > 0:
        affine = np.asarray(header.get_sform(), float)
    elif qform is not None:
        affine = qform
    else:
        with np.errstate(all="ignore"):
            bad = [s for s in sized[: len(shape)] if not np.isfinite(s) or s == 0]
        if bad:
            listed = " × ".join(f"{s:g}" for s in sized[: len(shape)])
            raise UnreadableError(f"its header gives voxels of {listed} mm", _HEADER_FIX)
        header = header.copy()
        header["pixdim"][1:4] = np.where(np.isfinite(sized) & (sized != 0), np.abs(sized), 1.0)
        affine = np.asarray(header.get_base_affine(), float)
    affine = checked_affine(affine, len(shape))
    if qform is None or int(header["sform_code"]) <= 0:
        return affine, []
    return affine, _disagreement(affine, qform, shape)


def _disagreement(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...]) -> list[Remark]:
    """What is to be said where the two affines of a header put voxels at different places."""
    if len(shape) == 2 or not np.isfinite(qform).all():
        return []
    corners = np.stack(np.meshgrid(*((0, s - 1) for s in shape), indexing="ij"), -1).reshape(-1, 3)
    one, two = (corners @ a[:3, :3].T + a[:3, 3] for a in (sform, qform))
    far = float(np.linalg.norm(one - two, axis=1).max())
    sizes = voxel_sizes(sform)
    if far <= _ROUNDING * sizes.min():
        return []
    first, second = (" × ".join(f"{s:.6g}" for s in voxel_sizes(a)) for a in (sform, qform))
    what = f"spacing {first} mm against {second} mm" if first != second else f"spacing {first} mm"
    return [
        Remark(
            f"sform and qform disagree ({what}, corners up to {far:.3g} mm apart)",
            "the sform is used; if the qform is right, correct the header",
        )
    ]


def _voxels(
    stream: Any, position: int, head: bytes, offset: int, size: int, path: Path
) -> np.ndarray:
    compressed = hasattr(stream, "fileobj")
    if not compressed:
        there = path.stat().st_size
        if there < offset + size:
            raise UnreadableError(f"it ends after {there:,} of {offset + size:,} bytes")
        stream.seek(offset)
        return read_array(stream, size)
    if position > offset:  # a small image ends within what was read as its header
        data = np.empty(size, np.uint8)
        early = head[offset : offset + size]
        data[: len(early)] = np.frombuffer(early, np.uint8)
        if size > len(early):
            data[len(early) :] = read_array(stream, size - len(early))
    else:
        _skip(stream, offset - position)
        data = read_array(stream, size)
    drain(stream, size + _SPARE)
    return data


def _skip(stream: Any, count: int) -> None:
    while count > 0:
        part = stream.read(min(count, 1 << 20))
        if not part:
            raise UnreadableError("its voxels begin after its end")
        count -= len(part)


def _scaled(header: Any, data: np.ndarray) -> np.ndarray:
    try:
        slope, intercept = header.get_slope_inter()
    except Exception as error:
        raise UnreadableError("the scale in its header is not a number", _HEADER_FIX) from error
    if data.dtype.kind == "f" and data.dtype.itemsize == 2:
        data = data.astype(np.float32)
    if slope is None or (slope == 1 and intercept in (None, 0)):
        return data
    small = data.dtype.itemsize < 4 or data.dtype == np.float32
    out: np.ndarray = data.astype(np.float32 if small else np.float64)
    np.multiply(out, slope, out=out)
    np.add(out, intercept or 0, out=out)
    return out
