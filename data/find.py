"""The datalist and the images that a folder holds."""

from __future__ import annotations

import os
from pathlib import Path

from mixseg.data.collections.registry import collections
from mixseg.data.datalist import DATALIST_NAME, Datalist, DatalistError
from mixseg.files.reading import IMAGE_SUFFIXES, PICTURE_SUFFIXES, split_suffix

__all__ = ["find_datalist", "list_images"]


def list_images(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The image at ``path``, or every image below the folder ``path``, sorted.

    Pictures (PNG, BMP, JPEG) count where a folder holds no volume: beside volumes they are
    previews. What a collection's folders hold beside the images, such as ACDC's masks and cine
    series, is left out.

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
        if root.is_dir() and any(known.leaves_out(file.name) for known in collections()):
            continue
        item = {"image": str(file), "case_id": stem}
        (items if suffix in IMAGE_SUFFIXES else pictures).append(item)
    items = items or pictures
    if not items:
        formats = ", ".join((*IMAGE_SUFFIXES, *PICTURE_SUFFIXES))
        raise FileNotFoundError(f"{root} holds no image ({formats}): set --dataset_dir")
    return items


def find_datalist(
    dataset_dir: str | os.PathLike[str], datalist: str | os.PathLike[str] | None = None
) -> Datalist:
    """The datalist of a dataset folder.

    An explicit ``datalist`` is loaded. Otherwise ``<dataset_dir>/datalist.json`` is; otherwise,
    where a collection knows the folder (:func:`mixseg.data.collections.registry.collections`), the
    datalist is built in memory.

    Args:
        dataset_dir: folder that relative paths start from.
        datalist: a datalist file; a relative path is looked for as it is and in ``dataset_dir``.

    Returns:
        The datalist, with paths as written and ``base_dir`` set.

    Raises:
        DatalistError: nothing usable; names the folder and the commands that make a datalist.
    """
    folder = Path(dataset_dir)
    if datalist:
        path = Path(datalist)
        if not path.is_file() and not path.is_absolute() and (folder / path).is_file():
            path = folder / path
        return Datalist.load(path)
    if not folder.is_dir():
        raise DatalistError(f"dataset_dir '{folder}' is not a folder")
    if (folder / DATALIST_NAME).is_file():
        return Datalist.load(folder / DATALIST_NAME)
    for collection in collections():
        found = collection.datalist(folder)
        if found is not None:
            return found
    hints = "".join(f"{known.hint.format(folder=folder)}\n" for known in collections())
    raise DatalistError(
        f"no {DATALIST_NAME} in '{folder}', and the folder has no layout that is known here.\n"
        f"{hints}"
        f"For a synthetic data set:  mixseg phantom {folder}\n"
        f"For your own images and masks:   mixseg prepare folder <images> <labels> "
        f"--output {folder / DATALIST_NAME}\n"
        "or write a datalist (docs/data.md) and check it with: mixseg validate <datalist.json>"
    )
