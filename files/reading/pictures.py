"""PNG, TIFF, BMP and JPEG: upright, with their colors, without their opacity."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mixseg.files.reading.volume import UnreadableError, Volume, checked_size

# What Pillow says of damaged files on its own is said in the fault.
logging.getLogger("PIL").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"PIL\.")

_PNG = b"\x89PNG\r\n\x1a\n"
#: EXIF orientations that exchange the axes.
_TURNED = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Color types of PNG: RGB, gray with opacity, RGB with opacity.
_PNG_SEVERAL = (2, 4, 6)
_TIFF_ORIENTATION, _TIFF_BITS, _TIFF_FORMAT, _TIFF_PHOTOMETRIC = 274, 258, 339, 262
#: By sample format and bits, what Pillow gives another type.
_TIFF_TYPES = {(1, 32): np.uint32, (2, 8): np.int8}
#: How the modes are read that hold neither gray values nor colors as they are.
_CONVERTED = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "La": "LA", "RGBa": "RGBA"}
_OPACITY = ("LA", "PA", "RGBA")


def read_picture(path: Path, voxels: bool) -> Volume:
    """Read a picture: axis 0 is x; indices of a palette stay, and are marked as such.

    An EXIF orientation is applied, as viewers and annotation tools do. Opacity is not a channel.
    """
    with open(path, "rb") as file:
        head = file.read(26)
    if head[:8] == _PNG:
        _check_png(path)
        if head[24] == 16 and head[25] in _PNG_SEVERAL:
            raise UnreadableError(
                "it has several channels of 16 bits, of which Pillow reads 8",
                "store colors with 8 bits, or each channel as a gray file of 16 bits, without "
                "opacity",
            )
    with _opened(path, head) as picture:
        # Before anything that makes Pillow decode it.
        checked_size((*picture.size, Image.getmodebands(picture.mode)), 1)
        if (pages := getattr(picture, "n_frames", 1)) > 1:
            raise UnreadableError(
                f"it holds {pages} pages", "store one page per file, or a volume as NIfTI"
            )
        orientation = int(picture.getexif().get(ExifTags.Base.Orientation, 1))
        stored_as = picture.format
        tags = getattr(picture, "tag_v2", {})
        kind = tags.get(_TIFF_FORMAT, (1,))[0], tags.get(_TIFF_BITS, (0,))[0]
        white_is_zero = tags.get(_TIFF_PHOTOMETRIC) == 0
    # Pillow turns some TIFF files itself, and gets others wrong.
    turned_here = stored_as == "TIFF" and orientation != 1
    source = io.BytesIO(_unturned(path.read_bytes())) if turned_here else path
    with Image.open(source) as picture:
        width, height = picture.size
        if orientation in _TURNED:
            width, height = height, width
        mode = _CONVERTED.get(picture.mode, picture.mode)
        channels = Image.getmodebands(mode) - (mode in _OPACITY)
        palette = mode in ("P", "PA")
        if not voxels:
            return Volume((width, height), np.eye(4), None, channels, palette=palette)
        upright: Any = picture if picture.mode == mode else picture.convert(mode)
        if orientation in _TURNS:
            upright = upright.transpose(_TURNS[orientation])
        data = np.asarray(upright)
    if kind in _TIFF_TYPES:
        # Pillow takes whole numbers of 32 bits as signed, those of 8 bits as unsigned.
        data = data.view(_TIFF_TYPES[kind])
    if white_is_zero and data.dtype.kind == "u" and data.dtype.itemsize == 2:
        data = np.invert(data)  # as Pillow does for those of 8 bits
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


def _opened(path: Path, head: bytes) -> Any:
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        if head[:4] not in (b"II*\0", b"MM\0*"):
            raise UnreadableError("it is not a picture that can be read") from error
        raise UnreadableError(
            "it is a TIFF file of a kind that is not read, such as 16-bit colors or 64-bit numbers",
            "store it as gray of 8, 16 or 32 bits, or as colors of 8 bits",
        ) from error


def _unturned(content: bytes) -> bytes:
    """A TIFF file whose first directory says that it is upright."""
    order = "<" if content[:2] == b"II" else ">"
    (place,) = struct.unpack_from(order + "I", content, 4)
    (entries,) = struct.unpack_from(order + "H", content, place)
    for entry in range(place + 2, place + 2 + 12 * entries, 12):
        if struct.unpack_from(order + "H", content, entry) == (_TIFF_ORIENTATION,):
            return content[: entry + 8] + struct.pack(order + "H", 1) + content[entry + 10 :]
    return content


def _check_png(path: Path) -> None:
    """Read all chunks with their checksums, which Pillow passes over."""
    with open(path, "rb") as file:
        file.seek(len(_PNG))
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
