"""Images that a folder holds."""

from __future__ import annotations

import os
from pathlib import Path

from mixseg.files.reading import IMAGE_SUFFIXES, PICTURE_SUFFIXES, split_suffix

__all__ = ["list_images"]


def list_images(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The image at ``path``, or every image below the folder ``path``, sorted.

    Pictures (PNG, BMP, JPEG) count where a folder holds no volume: beside volumes they are
    previews. Files that the official ACDC folders hold beside the images (``*_gt`` masks, ``*_4d``
    cine series) are left out.

    Returns:
        One dictionary an image: ``image``, its path, and ``case_id``, its name without suffix.

    Raises:
        FileNotFoundError: when there is no such path, or no image below it.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: set --dataset_dir to a folder of images")
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    items: list[dict[str, str]] = []
    pictures: list[dict[str, str]] = []
    for file in files:
        parts = split_suffix(file.name)
        if parts is None:
            continue
        stem, suffix = parts
        if root.is_dir() and stem.endswith(("_gt", "_4d")):
            continue
        item = {"image": str(file), "case_id": stem}
        (items if suffix in IMAGE_SUFFIXES else pictures).append(item)
    items = items or pictures
    if not items:
        formats = ", ".join((*IMAGE_SUFFIXES, *PICTURE_SUFFIXES))
        raise FileNotFoundError(f"{root} holds no image ({formats}): set --dataset_dir")
    return items
