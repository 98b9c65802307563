"""PNG, TIFF, BMP and JPEG: upright, with their colors, without their opacity."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mixseg.files.reading.volume import UnreadableError, Volume, checked_size

__all__ = ["read_picture"]

_PNG = b"\x89PNG\r\n\x1a\n"
#: EXIF orientations that exchange the axes.
_TURNED = (5, 6, 7, 8)
#: How the modes are read that hold neither gray values nor colors as they are.
_CONVERTED = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "La": "LA", "RGBa": "RGBA"}
_OPACITY = ("LA", "PA", "RGBA")


def read_picture(path: Path, voxels: bool) -> Volume:
    """Read a picture: axis 0 is x; indices of a palette stay, and are marked as such.

    An EXIF orientation is applied, as viewers and annotation tools do. Opacity is no channel.

    Raises:
        UnreadableError: for whatever cannot be read.
    """
    with Image.open(path) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise UnreadableError(
                f"it holds {picture.n_frames} pages", "store one page a file, or a volume as NIfTI"
            )
        if picture.format == "PNG":
            _check_png(path)
        width, height = picture.size
        if picture.getexif().get(ExifTags.Base.Orientation) in _TURNED:
            width, height = height, width
        mode = _CONVERTED.get(picture.mode, picture.mode)
        channels = Image.getmodebands(mode) - (mode in _OPACITY)
        checked_size((width, height, Image.getmodebands(mode)), 1)
        palette = mode in ("P", "PA")
        if not voxels:
            return Volume((width, height), np.eye(4), None, channels, palette=palette)
        upright: Any = ImageOps.exif_transpose(picture)
        data = np.asarray(upright if upright.mode == mode else upright.convert(mode))
    opaque = True
    if mode in _OPACITY:
        opacity = data[..., -1]
        opaque = bool(opacity.min() == opacity.max())
        data = data[..., :-1]
        data = data[..., 0] if channels == 1 else data
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    data = np.swapaxes(data, 0, 1)
    return Volume(data.shape[:2], np.eye(4), data, channels, palette=palette, opaque=opaque)


def _check_png(path: Path) -> None:
    """Read all chunks with their checksums, which Pillow passes over."""
    with open(path, "rb") as file:
        if file.read(8) != _PNG:
            raise UnreadableError("it does not begin as a PNG file does")
        while True:
            head = file.read(8)
            if len(head) < 8:
                raise UnreadableError("it ends before its last chunk")
            length, name = int.from_bytes(head[:4], "big"), head[4:]
            crc, left = zlib.crc32(name), length
            while left:
                part = file.read(min(left, 1 << 20))
                if not part:
                    raise UnreadableError("it ends before its last chunk")
                crc, left = zlib.crc32(part, crc), left - len(part)
            if file.read(4) != crc.to_bytes(4, "big"):
                raise UnreadableError(
                    "a checksum of its data does not match", "copy or download it again"
                )
            if name == b"IEND":
                return
