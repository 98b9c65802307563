"""Each format's kinds of files, odd and broken ones, with the voxels that were written."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mixseg.files.reading import UnreadableError, VolumeReader, open_volume, subject_name

RAS = np.diag([-0.8, -0.8, 1.25, 1.0])
RAS[:3, 3] = (16.0, 17.0, -440.0)


def scan(shape: tuple[int, ...] = (7, 6, 5), dtype: Any = np.int16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def refused(path: Path, voxels: bool = True) -> UnreadableError:
    with pytest.raises(UnreadableError) as caught:
        open_volume(path, voxels)
    return caught.value


# NIfTI


@pytest.mark.parametrize("offset", [0.0, 128.0, -1e9])
def test_voxels_that_begin_within_the_header_are_refused(tmp_path: Path, offset: float) -> None:
    nib.save(nib.Nifti1Image(scan(), RAS), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", content, 108, offset)
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(content)))
    for name in ("a.nii", "a.nii.gz"):
        fault = refused(tmp_path / name)
        assert f"the voxels begin at byte {offset:.0f}, within the header" in str(fault)
        assert "vox_offset (352" in fault.fix


@pytest.mark.parametrize("offset", [math.nan, math.inf])
def test_voxels_that_begin_nowhere_are_refused(tmp_path: Path, offset: float) -> None:
    nib.save(nib.Nifti1Image(scan(), RAS), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", content, 108, offset)
    (tmp_path / "a.nii").write_bytes(content)
    fault = refused(tmp_path / "a.nii")
    assert f"the voxels begin at byte {offset}" in str(fault)
    assert "vox_offset (352" in fault.fix


def test_units_of_a_header_are_brought_to_millimeters(tmp_path: Path) -> None:
    for unit, factor in (("micron", 1e3), ("meter", 1e-3)):
        image = nib.Nifti1Image(scan(), np.diag([factor, factor, factor, 1.0]) @ RAS)
        image.header.set_xyzt_units(unit, "sec")
        nib.save(image, tmp_path / "a.nii.gz")
        np.testing.assert_allclose(open_volume(tmp_path / "a.nii.gz").affine, RAS, rtol=1e-6)
    directions = "space directions: (800,0,0) (0,800,0) (0,0,1250)"
    origin = "space origin: (-16000,-17000,-440000)"
    units = 'space units: "um" "um" "um"'
    path = _nrrd(tmp_path / "a.nrrd", scan(), "space: LPS", directions, origin, units)
    np.testing.assert_allclose(open_volume(path).affine, RAS, rtol=1e-6)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_nifti_of_any_type(tmp_path: Path, dtype: str, name: str) -> None:
    values = scan(dtype=np.dtype(dtype).newbyteorder("="))
    kind = nib.Nifti1Pair if name == "a.hdr" else nib.Nifti1Image
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    nib.save(kind(values, RAS, header, dtype=values.dtype), tmp_path / name)
    opened = open_volume(tmp_path / name)
    np.testing.assert_array_equal(opened.data, values)
    assert opened.data is not None
    assert opened.data.dtype.kind == values.dtype.kind
    np.testing.assert_allclose(opened.affine, RAS, atol=1e-6)
    if name == "a.hdr":
        np.testing.assert_array_equal(open_volume(tmp_path / "a.img").data, values)


def test_nifti_2_and_scaled_voxels(tmp_path: Path) -> None:
    values = scan()
    nib.save(nib.Nifti2Image(values, RAS), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(open_volume(tmp_path / "two.nii.gz").data, values)
    image = nib.Nifti1Image(values, RAS)
    image.header.set_slope_inter(0.5, -1024)
    raw = bytearray(image.to_bytes())
    raw[112:120] = struct.pack("<ff", 0.5, -1024)  # scl_slope, scl_inter
    (tmp_path / "scaled.nii").write_bytes(raw)
    np.testing.assert_array_equal(open_volume(tmp_path / "scaled.nii").data, values * 0.5 - 1024)


def test_compression_is_told_by_the_content(tmp_path: Path) -> None:
    values = scan()
    raw = nib.Nifti1Image(values, RAS).to_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(raw)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(raw))
    for name in ("plain.nii.gz", "packed.nii"):
        np.testing.assert_array_equal(open_volume(tmp_path / name).data, values)
    (tmp_path / "twice.nii.gz").write_bytes(gzip.compress(gzip.compress(raw)))
    assert "compressed twice" in str(refused(tmp_path / "twice.nii.gz"))


@pytest.mark.parametrize(
    ("shape", "spatial", "channels"),
    [
        ((7, 6, 5, 1), (7, 6, 5), 1),
        ((7, 6, 5, 1, 1), (7, 6, 5), 1),
        ((7, 6, 1, 1), (7, 6, 1), 1),
        ((7, 6, 5, 3), (7, 6, 5), 3),
        ((7, 6, 5, 1, 3), (7, 6, 5), 3),
        ((7, 6), (7, 6), 1),
    ],
)
def test_axes_of_one_voxel_are_dropped_and_others_are_channels(
    tmp_path: Path, shape: tuple[int, ...], spatial: tuple[int, ...], channels: int
) -> None:
    values = scan(shape)
    nib.save(nib.Nifti1Image(values, RAS), tmp_path / "a.nii.gz")
    opened = open_volume(tmp_path / "a.nii.gz")
    assert (opened.shape, opened.channels) == (spatial, channels)
    assert opened.data is not None
    np.testing.assert_array_equal(opened.data.ravel(), values.ravel())


def _patched(path: Path, *places: tuple[int, str, Any]) -> Path:
    raw = bytearray(nib.Nifti1Image(scan(), RAS).to_bytes())
    for offset, form, value in places:
        struct.pack_into("<" + form, raw, offset, value)
    path.write_bytes(raw)
    return path


_SFORM_CODE, _PIXDIM_Z, _SROW_Z = 254, 88, 312
_NO_SFORM = ((_SFORM_CODE, "h", 0), (252, "h", 0))


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ([(_SROW_Z + 8, "f", 0.0)], "singular: voxels of 0.8 × 0.8 × 0 mm"),
        ([(_SROW_Z, "f", np.nan)], "NaN or infinity"),
        ([(_SROW_Z + 8, "f", np.inf)], "NaN or infinity"),
        ([*_NO_SFORM, (_PIXDIM_Z, "f", 0.0)], "its header gives voxels of 0.8 × 0.8 × 0 mm"),
        ([*_NO_SFORM, (_PIXDIM_Z, "f", np.nan)], "its header gives voxels of 0.8 × 0.8 × nan mm"),
        (
            [(_SROW_Z + 8, "f", 0.0), (_SROW_Z, "f", 1.0), (280, "f", 0.0), (284, "f", 0.8)],
            "singul",
        ),
        ([(70, "h", 32)], "complex"),
        ([(70, "h", 128)], "RGB"),
        ([(70, "h", 777)], "unknown type"),
        ([(42, "h", 0)], "its header says 0×6×5 voxels"),
        ([(42, "h", -7)], "its header says -7×6×5 voxels"),
        ([(344, "4s", b"n+9\0")], "Analyze 7.5"),
        ([(108, "f", 1e6)], "it ends after"),
        ([(46, "h", 500)], "it ends after"),
    ],
)
def test_nifti_headers_that_cannot_be_followed(
    tmp_path: Path, places: list[Any], reason: str
) -> None:
    path = _patched(tmp_path / "a.nii", *places)
    error = refused(path)
    assert reason in str(error)
    assert "\n" not in str(error)
    assert error.fix


def test_sform_and_qform_that_disagree_are_remarked_and_the_sform_counts(tmp_path: Path) -> None:
    image = nib.Nifti1Image(scan(), RAS)
    other = RAS.copy()
    other[2, 2] = 0.6
    image.set_sform(RAS, 1)
    image.header.set_qform(other, 2)
    nib.save(image, tmp_path / "a.nii.gz")
    opened = open_volume(tmp_path / "a.nii.gz", voxels=False)
    np.testing.assert_allclose(opened.affine, RAS, atol=1e-6)
    (remark,) = opened.remarks
    assert "spacing 0.8 × 0.8 × 1.25 mm against 0.8 × 0.8 × 0.6 mm" in remark.problem
    assert (opened.header["sform_code"], opened.header["qform_code"]) == (1, 2)
    image.header.set_qform(RAS, 2)
    nib.save(image, tmp_path / "a.nii.gz")
    assert open_volume(tmp_path / "a.nii.gz", voxels=False).remarks == ()


# NRRD and MetaImage


def _nrrd(path: Path, values: np.ndarray, *lines: str, encoding: str = "gzip") -> Path:
    kinds = {"i": "int", "u": "uint", "f": "float"}
    name = {"f4": "float", "f8": "double"}.get(
        values.dtype.str[1:], f"{kinds[values.dtype.kind]}{8 * values.dtype.itemsize}"
    )
    header = [
        "NRRD0005",
        f"type: {name}",
        f"dimension: {values.ndim}",
        f"sizes: {' '.join(map(str, values.shape))}",
        "endian: little",
        f"encoding: {encoding}",
        *lines,
    ]
    raw = values.tobytes(order="F")
    if encoding == "ascii":
        raw = " ".join(map(str, values.ravel(order="F"))).encode()
    body = gzip.compress(raw) if encoding == "gzip" else raw
    path.write_bytes("\n".join(header).encode() + b"\n\n" + body)
    return path


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("encoding", ["gzip", "raw", "ascii"])
def test_nrrd_of_any_type(tmp_path: Path, dtype: str, encoding: str) -> None:
    values = scan(dtype=dtype)
    opened = open_volume(_nrrd(tmp_path / "a.nrrd", values, encoding=encoding))
    np.testing.assert_array_equal(opened.data, values)
    # Nothing about space: as ITK has it, voxels of 1 mm along left and posterior.
    np.testing.assert_array_equal(opened.affine, np.diag([-1.0, -1.0, 1.0, 1.0]))


@pytest.mark.parametrize("first", [True, False])
def test_components_of_an_nrrd_are_channels_wherever_they_lie(tmp_path: Path, first: bool) -> None:
    values = scan((7, 6, 5, 2))
    stored = np.moveaxis(values, -1, 0) if first else values
    vectors = "(0.5,0,0) (0,0.5,0) (0,0,2)"
    opened = open_volume(
        _nrrd(
            tmp_path / "a.nrrd",
            stored,
            "space: left-posterior-superior",
            f"space directions: {'none ' if first else ''}{vectors}{'' if first else ' none'}",
            f"kinds: {'list domain domain domain' if first else 'domain domain domain list'}",
            "space origin: (1,2,3)",
        )
    )
    assert (opened.shape, opened.channels) == ((7, 6, 5), 2)
    np.testing.assert_array_equal(opened.data, values)
    expected = np.diag([-0.5, -0.5, 2.0, 1.0])
    expected[:3, 3] = (-1, -2, 3)
    np.testing.assert_allclose(opened.affine, expected)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("LPS", (-1, -1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_spaces_of_an_nrrd(tmp_path: Path, space: str, signs: tuple[int, ...]) -> None:
    path = _nrrd(
        tmp_path / "a.nrrd",
        scan(),
        f"space: {space}",
        "space directions: (2,0,0) (0,3,0) (0,0,4)",
        "space origin: (10,20,30)",
    )
    expected = np.diag([2.0 * signs[0], 3.0 * signs[1], 4.0 * signs[2], 1.0])
    expected[:3, 3] = np.array([10, 20, 30]) * signs
    np.testing.assert_allclose(open_volume(path).affine, expected)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("MET_CHAR", "i1"), ("MET_UCHAR", "u1"), ("MET_SHORT", "i2"), ("MET_USHORT", "u2")),
        *(("MET_INT", "i4"), ("MET_UINT", "u4"), ("MET_LONG_LONG", "i8")),
        *(("MET_ULONG_LONG", "u8"), ("MET_FLOAT", "f4"), ("MET_DOUBLE", "f8")),
    ],
)
@pytest.mark.parametrize("components", [1, 3])
def test_metaimage_of_any_type(tmp_path: Path, name: str, dtype: str, components: int) -> None:
    shape = (7, 6, 5) if components == 1 else (7, 6, 5, components)
    values = scan(shape, dtype)
    stored = values if components == 1 else np.moveaxis(values, -1, 0)
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
        "CompressedData = False\nTransformMatrix = 0 1 0 -1 0 0 0 0 1\nOffset = 1 2 3\n"
        "ElementSpacing = 0.5 0.75 2\nDimSize = 7 6 5\n"
        f"ElementNumberOfChannels = {components}\nElementType = {name}\nElementDataFile = LOCAL\n"
    )
    big = stored.astype(np.dtype(dtype).newbyteorder(">"))
    (tmp_path / "a.mha").write_bytes(header.encode() + big.tobytes(order="F"))
    opened = open_volume(tmp_path / "a.mha")
    assert (opened.shape, opened.channels) == ((7, 6, 5), components)
    np.testing.assert_array_equal(opened.data, values)
    # The first axis runs along +y, the second along −x (LPS).
    np.testing.assert_allclose(
        opened.affine, [[0, 0.75, 0, -1], [-0.5, 0, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]]
    )


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_voxels_of_no_size_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.nrrd":
        _nrrd(path, scan(), "space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,0)")
    else:
        image = itk.image_from_array(scan())
        itk.imwrite(image, str(path))
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 0"))
    assert "voxels of 1 × 1 × 0 mm" in str(refused(path))


def test_what_nrrd_and_metaimage_cannot_say(tmp_path: Path) -> None:
    nrrd = _nrrd(tmp_path / "a.nrrd", scan((3, 3, 3, 2, 2)))
    assert "it has 5 axes" in str(refused(nrrd))
    (tmp_path / "b.nrrd").write_text("NRRD0004\ntype: block\ndimension: 2\nsizes: 2 2\n\n")
    assert "unsupported type 'block'" in str(refused(tmp_path / "b.nrrd"))
    (tmp_path / "c.mha").write_text("NDims = 0\nDimSize = 0\nElementType = MET_FLOAT\n")
    assert "MetaImage header" in str(refused(tmp_path / "c.mha"))
    header = "NDims = 0\nDimSize = 3 3\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    (tmp_path / "d.mha").write_text(header)
    assert "its header says 0 axes" in str(refused(tmp_path / "d.mha"))
    (tmp_path / "e.mhd").write_text(header.replace("0\n", "2\n", 1).replace("LOCAL", "gone.raw"))
    assert "gone.raw, is missing" in str(refused(tmp_path / "e.mhd"))


# Pictures


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 1), (8, -1)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_photographs_are_read_upright(
    tmp_path: Path, orientation: int, turns: int, suffix: str
) -> None:
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(np.rot90(upright, turns))).save(path, exif=exif)
    opened = open_volume(path)
    assert opened.shape == open_volume(path, voxels=False).shape == (24, 16)
    assert opened.data is not None
    np.testing.assert_allclose(opened.data.T, upright, atol=3)  # JPEG is not exact


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("I;16", 1), ("1", 1)]
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_opacity_is_not_a_channel_and_sixteen_bits_stay(
    tmp_path: Path, mode: str, channels: int, suffix: str
) -> None:
    rng = np.random.default_rng(0)
    bands = Image.getmodebands(mode)
    if mode == "I;16":
        values = rng.integers(0, 65536, (6, 8)).astype(np.uint16)
        picture = Image.fromarray(values)
    elif mode == "1":
        values = rng.integers(0, 2, (6, 8)).astype(bool)
        picture = Image.fromarray(values)
    else:
        values = rng.integers(0, 256, (6, 8, bands)).astype(np.uint8)
        picture = Image.fromarray(values[..., 0] if bands == 1 else values, mode)
    picture.save(tmp_path / f"a.{suffix}")
    opened = open_volume(tmp_path / f"a.{suffix}")
    assert (opened.shape, opened.channels) == ((8, 6), channels)
    colors = values if values.ndim == 2 else values[..., :channels]
    expected = colors.reshape(6, 8, channels).swapaxes(0, 1)
    assert opened.data is not None
    np.testing.assert_array_equal(opened.data.reshape(8, 6, channels), expected)
    assert opened.opaque == (mode not in ("LA", "RGBA"))


def _png(path: Path, values: np.ndarray, color: int) -> None:
    """A PNG file of (rows, columns, channels) values with 16 bits, after its specification."""

    def chunk(name: bytes, content: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + end

    rows, columns = values.shape[:2]
    head = struct.pack(">IIBBBBB", columns, rows, 16, color, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("color", [2, 4, 6])
def test_channels_of_sixteen_bits_lose_none_of_them(tmp_path: Path, color: int) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (6, 7, {2: 3, 4: 2, 6: 4}[color]))
    _png(tmp_path / "a.png", values, color)
    fault = refused(tmp_path / "a.png", voxels=False)
    assert "several channels of 16 bits" in str(fault)
    # As the fix says: a gray file of each channel.
    for channel in (0, 1):
        _png(tmp_path / f"{channel}.png", values[..., channel : channel + 1], 0)
    joined = open_volume([tmp_path / "0.png", tmp_path / "1.png"])
    np.testing.assert_array_equal(joined.data, np.swapaxes(values[..., :2], 0, 1))


def _tiff(path: Path, values: np.ndarray, kind: int, black: int = 1) -> None:
    """An uncompressed gray TIFF file of one strip; ``kind`` is 1 unsigned, 2 signed, 3 float.

    ``black`` is 1 where black is 0, and 0 where white is.
    """
    rows, columns = values.shape
    size, bits = values.nbytes, 8 * values.itemsize
    tags = [(256, columns), (257, rows), (258, bits), (259, 1), (262, black), (273, 8), (277, 1)]
    tags += [(278, rows), (279, size), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + size)
    end = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(head + values.tobytes() + end)


@pytest.mark.parametrize(("dtype", "kind"), [("<u4", 1), ("<i4", 2), ("i1", 2), ("<u2", 1)])
def test_numbers_of_a_tiff_keep_their_sign(tmp_path: Path, dtype: str, kind: int) -> None:
    limits = np.iinfo(dtype)
    values = np.linspace(limits.min, limits.max, 42).reshape(6, 7).astype(dtype)
    _tiff(tmp_path / "a.tif", values, kind)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.tif").data, values.T)


def test_white_may_be_zero_in_a_tiff_of_any_bits(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        values = np.linspace(0, np.iinfo(dtype).max, 42).reshape(6, 7).astype(dtype)
        _tiff(tmp_path / "a.tif", values, 1, black=0)
        expected = np.iinfo(dtype).max - values.T
        np.testing.assert_array_equal(open_volume(tmp_path / "a.tif").data, expected)


def test_a_tiff_of_a_kind_that_is_not_read_is_not_called_truncated(tmp_path: Path) -> None:
    _tiff(tmp_path / "a.tif", scan((6, 7), np.float64), 3)
    fault = refused(tmp_path / "a.tif")
    assert "a TIFF file of a kind that is not read" in str(fault)
    assert "gray of 8, 16 or 32 bits" in fault.fix


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(scan((6, 8), np.uint8, seed)) for seed in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "it holds 3 pages" in str(refused(tmp_path / "a.tif"))


# Damage


def _writers() -> dict[str, Callable[[Path, np.ndarray], object]]:
    def by_itk(path: Path, values: np.ndarray) -> None:
        image = itk.image_from_array(np.ascontiguousarray(values.T))
        itk.imwrite(image, str(path), compression=True)

    return {
        "a.nii.gz": lambda path, values: nib.save(nib.Nifti1Image(values, RAS), path),
        "a.nrrd": by_itk,
        "a.mha": by_itk,
        "a.png": lambda path, values: Image.fromarray(values[..., 0].T.copy()).save(path),
    }


@pytest.mark.parametrize("name", _writers())
def test_a_flipped_bit_is_a_fault_or_changes_nothing(tmp_path: Path, name: str) -> None:
    """Formats with checksums: what is read is what was written, or is refused."""
    values = scan((12, 11, 6), np.uint8)
    path = tmp_path / name
    _writers()[name](path, values)
    expected = open_volume(path).data
    whole = path.read_bytes()
    # The text of a header bears no checksum.
    start = {"a.nrrd": whole.find(b"\n\n") + 2, "a.mha": whole.find(b"LOCAL\n") + 6}.get(name, 0)
    rng = np.random.default_rng(0)
    found = 0
    for place in rng.integers(start, len(whole), 150):
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            np.testing.assert_array_equal(open_volume(path).data, expected)
        except UnreadableError:
            found += 1
    assert found > 100


@pytest.mark.parametrize("name", _writers())
def test_truncation_is_a_fault_wherever_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    _writers()[name](path, scan((12, 11, 6), np.uint8))
    whole = path.read_bytes()
    for keep in (0, 1, 20, 120, len(whole) // 2, len(whole) - 9, len(whole) - 5, len(whole) - 1):
        path.write_bytes(whole[:keep])
        refused(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_what_would_not_fit_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("a.nii"):
        image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), RAS)
        raw = bytearray(image.to_bytes())
        struct.pack_into("<3h", raw, 42, 30000, 30000, 30000)
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    elif name == "a.nrrd":
        text = "NRRD0005\ntype: uchar\ndimension: 3\nsizes: 30000 30000 30000\nencoding: gzip\n\n"
        path.write_text(text)
    else:
        path.write_text(
            "NDims = 3\nDimSize = 30000 30000 30000\nElementType = MET_UCHAR\n"
            "ElementDataFile = LOCAL\n"
        )
    for voxels in (True, False):
        error = refused(path, voxels)
        assert "30000×30000×30000 voxels, 108000.0 GB in memory" in str(error)
    assert "crop or resample it" in error.fix


def test_more_data_than_the_header_says(tmp_path: Path) -> None:
    raw = nib.Nifti1Image(scan(), RAS).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw + bytes(50 << 20)))
    assert "far more data than its header states" in str(refused(tmp_path / "a.nii.gz"))


# What is not an image file


def test_what_stands_in_the_place_of_an_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    assert "it is not a regular file" in str(refused(tmp_path / "pipe.nii.gz"))
    (tmp_path / "link.nii.gz").symlink_to("gone/annex/object")
    error = refused(tmp_path / "link.nii.gz")
    assert "it is a link to 'gone/annex/object', which does not exist" in str(error)
    assert "git annex get" in error.fix
    (tmp_path / "lfs.nii.gz").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    assert "git lfs pull" in refused(tmp_path / "lfs.nii.gz").fix
    (tmp_path / "annex.nii.gz").write_text("../.git/annex/objects/fk/0W/MD5E-s12--0.nii.gz")
    error = refused(tmp_path / "annex.nii.gz")
    assert "a pointer of git-annex" in str(error)
    assert "datalad get" in error.fix
    with zipfile.ZipFile(tmp_path / "zip.nii.gz", "w") as archive:
        archive.writestr("scan.nii", "?")
    assert "unpack it" in refused(tmp_path / "zip.nii.gz").fix
    (tmp_path / "page.nrrd").write_text("<!DOCTYPE html><html>Please log in</html>")
    assert "it is a web page" in str(refused(tmp_path / "page.nrrd"))
    (tmp_path / "empty.png").touch()
    assert "the file is empty" in str(refused(tmp_path / "empty.png"))
    assert "there is no such file" in str(refused(tmp_path / "gone.nii"))
    (tmp_path / "a.xyz").write_text("?")
    assert "'.xyz' is not known" in str(refused(tmp_path / "a.xyz"))


# As MONAI's transforms call it


def test_files_of_one_image_are_its_channels(tmp_path: Path) -> None:
    for seed in range(3):
        nib.save(nib.Nifti1Image(scan(seed=seed), RAS), tmp_path / f"{seed}.nii.gz")
    reader = VolumeReader()
    data, meta = reader.get_data(reader.read([tmp_path / f"{seed}.nii.gz" for seed in range(3)]))
    np.testing.assert_array_equal(data, np.stack([scan(seed=s) for s in range(3)], axis=-1))
    np.testing.assert_allclose(meta["affine"], RAS, atol=1e-6)
    nib.save(nib.Nifti1Image(scan(), RAS + np.eye(4)), tmp_path / "moved.nii.gz")
    with pytest.raises(UnreadableError, match=r"the grid of moved\.nii\.gz is not that of 0\.nii"):
        reader.read([tmp_path / "0.nii.gz", tmp_path / "moved.nii.gz"])


def test_names_of_what_is_made_of_an_image() -> None:
    assert subject_name("in/UP.NII.GZ") == "in/UP.nii.gz"
    assert subject_name("in/a.nii.gz") == "in/a.nii.gz"
    assert subject_name("in/1.2.840.113619/") == "in/1.2.840.113619.dcm"
