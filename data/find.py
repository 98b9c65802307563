"""The datalist and the images that a folder holds."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from mixseg.data.collections.registry import collections
from mixseg.data.datalist import DATALIST_NAME, Datalist, DatalistError
from mixseg.files.finding import find_images
from mixseg.files.reading import IMAGE_SUFFIXES, PICTURE_SUFFIXES, is_dicom, split_suffix

logger = logging.getLogger(__name__)

_FORMATS = ", ".join((*IMAGE_SUFFIXES, *PICTURE_SUFFIXES, "DICOM"))


@dataclass(frozen=True)
class ListedImages:
    """The images of a folder, and what was left out.

    Attributes:
        images: one dictionary an image: ``image``, its path, and ``case_id``, its name without
            suffix.
        left_out: sentences, each naming a path or a number of files and the reason.
    """

    images: list[dict[str, str]]
    left_out: list[str]


def list_images(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The image at ``path``, or every image below the folder ``path``, sorted.

    See :func:`search_images`; what is left out is logged as a warning.

    Returns:
        One dictionary an image: ``image``, its path, and ``case_id``, its name without suffix.

    Raises:
        FileNotFoundError: when there is no such path, or no image below it.
    """
    listed = search_images(path)
    for sentence in listed.left_out:
        logger.warning("%s", sentence)
    return listed.images


def search_images(path: str | os.PathLike[str]) -> ListedImages:
    """The image at ``path``, or every image below the folder ``path``, and what is left out.

    Links to folders are followed, hidden files are skipped, and a folder of DICOM
    slices is one image. Pictures (PNG, TIFF, BMP, JPEG) count where a folder holds no volume:
    beside volumes they are previews. What a collection's folders hold beside the images, such as
    ACDC's masks and cine series, is left out.

    Raises:
        FileNotFoundError: when there is no such path, or no image below it.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: set --dataset_dir to a folder of images")
    if root.is_file():
        parts = split_suffix(root.name)
        if parts is None and not is_dicom(root):
            raise FileNotFoundError(f"{root} is not an image ({_FORMATS}): set --dataset_dir")
        stem = parts[0] if parts else root.name
        return ListedImages([{"image": str(root), "case_id": stem}], [])
    found = find_images(root)
    items: list[dict[str, str]] = []
    pictures: list[dict[str, str]] = []
    masks = 0
    for image in found.images:
        if any(known.leaves_out(image.path.name) for known in collections()):
            masks += 1
            continue
        item = {"image": str(image.path), "case_id": image.stem}
        (pictures if image.is_picture else items).append(item)
    left_out = [f"{place} is left out: {reason}" for place, reason in found.left_out]
    if masks:
        left_out.append(f"{masks} files below {root} are left out: a collection's masks and series")
    if items and pictures:
        left_out.append(f"{len(pictures)} pictures below {root} are left out: previews of volumes")
    items = items or pictures
    if not items:
        reasons = f"; {'; '.join(left_out)}" if left_out else ""
        raise FileNotFoundError(f"{root} holds no image ({_FORMATS}){reasons}: set --dataset_dir")
    return ListedImages(items, left_out)


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
        The datalist, with paths as written, which start from ``dataset_dir`` or from its own
        folder.

    Raises:
        DatalistError: nothing usable; names the folder and the commands that make a datalist.
    """
    folder = Path(dataset_dir)
    if datalist:
        path = Path(datalist)
        if not path.is_file() and not path.is_absolute() and (folder / path).is_file():
            path = folder / path
        return Datalist.load(path).with_dataset_dir(folder)
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
