"""Bytes of files: compressed or not by their content, read to the end so that checksums count."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from mixseg.files.reading.volume import DAMAGED, UnreadableError

GZIP = b"\x1f\x8b"
_PART = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, decompressed where its first bytes say gzip, whatever its name."""
    with open(path, "rb") as file:
        compressed = file.read(2) == GZIP
        file.seek(0)
        if not compressed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream, named_faults():
            yield cast(BinaryIO, stream)


@contextmanager
def named_faults() -> Iterator[None]:
    """Errors of decompression in words.

    Raises:
        UnreadableError: the data end early, or do not match their checksum.
    """
    try:
        yield
    except EOFError as error:
        raise UnreadableError("its compressed data end early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        damaged = "its compressed data are damaged, or do not match their checksum"
        raise UnreadableError(damaged, "copy or download it again") from error


def read_array(stream: Any, size: int) -> np.ndarray:
    """``size`` bytes of a stream, read into one array of bytes.

    Raises:
        UnreadableError: the stream holds fewer.
    """
    out = np.empty(size, np.uint8)
    view, done = out.data, 0
    while done < size:
        count = stream.readinto(view[done : done + _PART])
        if not count:
            raise UnreadableError(f"its voxels end after {done:,} of {size:,} bytes", DAMAGED)
        done += count
    return out


def read_raw(file: BinaryIO, size: int, skip: int) -> np.ndarray:
    """``size`` bytes of an open file, ``skip`` after where it stands; -1: those at its end.

    Raises:
        UnreadableError: the file does not hold them.
    """
    start, end = file.tell(), file.seek(0, os.SEEK_END)
    place = end - size if skip == -1 else start + max(skip, 0)
    if place < 0 or place + size > end:
        raise UnreadableError(f"its voxels end after {max(0, end - place):,} of {size:,} bytes")
    file.seek(place)
    return read_array(file, size)


def drain(stream: Any, limit: int) -> None:
    """Read what follows the voxels, for the checksum at the very end.

    Raises:
        UnreadableError: more than ``limit`` bytes follow, or the checksum does not match.
    """
    left = limit
    while part := stream.read(_PART):
        left -= len(part)
        if left < 0:
            raise UnreadableError(
                "it holds far more data than its header states",
                "correct its header, or write the file again",
            )


def refuse_pointers(path: Path) -> None:
    """Name what stands in the place of an image: nothing, an archive, a web page, a pointer.

    Raises:
        UnreadableError: with what helps.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise UnreadableError("the file is empty", "copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise UnreadableError("it is a pointer of Git LFS, not the image", "fetch it: git lfs pull")
    if head.startswith(b"PK\3\4"):
        raise UnreadableError("it is a zip archive, not the image", "unpack it: unzip")
    # A plain file with this text stands for a link where the file system has none.
    if b"annex/objects/" in head:
        raise UnreadableError(
            "it is a pointer of git-annex, not the image",
            "fetch it: git annex get, or datalad get",
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise UnreadableError("it is a web page, not an image", "download it again, logged in")
