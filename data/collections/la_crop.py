"""Crops of whole left-atrium scans around the heart, written with their datalist."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tqdm import tqdm

from mixseg.data.collections.base import Collection, Prepared, listed_faults, save_datalist
from mixseg.data.collections.boxes import (
    Box,
    box_slices,
    check_mask,
    check_scan,
    cropped,
    mask_box,
    read_mask,
    read_volume,
)
from mixseg.data.collections.la import (
    LA_CLASSES,
    Scan,
    find_scans,
    la_layout,
    prepare_la,
    split_scans,
    whole_scans,
)
from mixseg.data.datalist import DATALIST_NAME, SPLITS, Datalist, DatalistError, Entry, Split
from mixseg.files.atomic import write_text_atomic
from mixseg.files.reading import Volume, voxels
from mixseg.files.writing import stored_dtype, write_nifti

PREPARATION_NAME = "preparation.json"
#: Side of the square that ``center`` keeps, mm.
CENTER_SIZE = 200.0
#: Added on each side to the union of masks that ``full-masks`` takes, mm.
MASK_MARGIN = 20.0

Crop = Literal["center", "full-masks", "none"]

_MAX_WORKERS = 4


class LeftAtrium(Collection):
    """The 2018 Left Atrium Segmentation Challenge: late gadolinium-enhanced MRI."""

    name = "la"
    title = "left atrium"
    hint = (
        "For the left atrium, as downloaded:   mixseg prepare la <folder with <id>/lgemri.nrrd> "
        "{folder}"
    )

    def datalist(self, source: Path, seed: int = 0) -> Datalist | None:
        """:func:`mixseg.data.collections.la.prepare_la` of cropped scans."""
        return prepare_la(source) if la_layout(source) == "folders" else None

    def prepare(
        self,
        source: Path,
        output: Path | None = None,
        *,
        crop: Literal["center", "full-masks", "none"] | None = None,
        size: float | None = None,
        num_full: int | None = None,
        margin: float | None = None,
        seed: int | None = None,
        overwrite: bool = False,
        quiet: bool = False,
    ) -> Prepared:
        """Split left-atrium scans (80/5/15), crop them around the heart and write their datalist.

        Masks of cases that may count as partially labeled never decide about the crop.

        Example: mixseg prepare la "Left Atrium/Training Set" la

        Args:
            source: Folder with <id>/lgemri.nrrd, or with image/, label/, split.json.
            output: Folder for cropped copies and the datalist; needed for lgemri.nrrd, default for
                the other layout: SOURCE, where nothing is copied.
            crop: What is kept in-plane: a square about the scan's center (the default), the box of
                the masks of the first --num-full training scans, or all.
            size: Side of the square, mm (default: 200).
            num_full: Fully labeled scans of the training, whose masks full-masks may use.
            margin: Around the box of full-masks, mm (default: 20).
            seed: Seed of the split (default: 0).
            overwrite: Overwrite what is there.
            quiet: No progress bar.
        """
        options = {"crop": crop, "size": size, "num_full": num_full, "margin": margin, "seed": seed}
        given: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
        if la_layout(source) == "official":
            if output is None:
                raise DatalistError(whole_scans(source))
            datalist = crop_la(source, output, **given, overwrite=overwrite, progress=not quiet)
            written = (output / PREPARATION_NAME, output / DATALIST_NAME)
            return Prepared(datalist, output, written)
        datalist = prepare_la(source)
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise DatalistError(
                f"{names}: '{source}' is cropped and split already (image/, label/, split.json)"
            )
        path = (source if output is None else output) / DATALIST_NAME
        return Prepared(datalist, source, (save_datalist(datalist, path, overwrite),))

    def instead_of_folder(self, source: Path) -> bool:
        """Whole scans are refused: they need a folder of their own."""
        if la_layout(source) == "official":
            raise DatalistError(whole_scans(source))
        return False


def crop_la(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    crop: Crop = "center",
    size: float = CENTER_SIZE,
    num_full: int | None = None,
    margin: float = MASK_MARGIN,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> Datalist:
    """Crop the whole scans of the official layout, split them, and write their datalist.

    The scans ``<id>/lgemri.nrrd`` with masks ``<id>/laendo.nrrd`` (NIfTI and MHA too) may lie under
    ``Training Set/`` and ``Testing Set/``. They are split 80/5/15 (in proportion for other numbers)
    by scan, seeded; scans under a folder that begins with "Testing" always belong to ``test``.

    One box in mm about each scan's center cuts all scans, in-plane only. It never depends on the
    mask of a case that Set-N counts as partially labeled, or of a validation or test case:

    - ``center``: a square of ``size`` mm; no mask is read for it.
    - ``full-masks``: the union of the mask boxes of the first ``num_full`` training cases, the
      fully labeled ones of Set-N, and ``margin`` mm on each side; no other mask is read for it.
    - ``none``: the whole scan.

    ``output`` receives ``image/`` and ``label/<id>.nii.gz`` (int16, float32 where a scan needs it;
    masks uint8 with 1 for the atrium), :data:`PREPARATION_NAME` with the rule, the box and what was
    cut of each case, and last ``datalist.json``. An interrupted run resumes where it stopped.

    Returns:
        The datalist, with ``base_dir`` set to ``output``.

    Raises:
        DatalistError: no scan; scans or masks missing, unreadable, not 3D, on different grids, or
            with values other than 0, 1 and 255, all listed at once, after the sound cases are
            written; ``output`` holds another preparation and ``overwrite`` is False.
        ValueError: an option out of range or missing.
    """
    _check_options(crop, size, num_full, margin)
    source, output = Path(source).resolve(), Path(output)
    if la_layout(source) == "folders":
        raise DatalistError(
            f"'{source}' holds cropped scans already (image/, label/, split.json): nothing to crop"
        )
    if (output / DATALIST_NAME).exists() and not overwrite:
        raise DatalistError(f"'{output / DATALIST_NAME}' exists; give --overwrite to replace it")
    splits = split_scans(find_scans(source), seed)
    box, rule = _choose_box(splits["training"], crop, size, num_full, margin)
    header = {"rule": rule, "box_mm": None if box is None else asdict(box), "seed": seed}
    # As JSON gives it back: a tuple is a list.
    header = json.loads(json.dumps(header))
    done = {} if overwrite else _done_before(output / PREPARATION_NAME, header)
    output.mkdir(parents=True, exist_ok=True)
    (output / DATALIST_NAME).unlink(missing_ok=True)
    cases, faults = _crop_all(splits, box, output, header, done, progress)
    if faults:
        raise DatalistError(
            listed_faults(f"the LA folder '{source}'", faults)
            + "\nfix them and run the command again: finished scans are kept"
        )
    _warn_of_cuts(cases)
    _warn_of_doubles(cases)
    return _write_datalist(splits, output)


def _crop_all(
    splits: Mapping[Split, Sequence[Scan]],
    box: Box | None,
    output: Path,
    header: Mapping[str, Any],
    done: Mapping[str, Any],
    progress: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Crop what is not done yet; the records of all cases, in the splits' order, and the faults."""
    jobs = [(split, scan) for split in SPLITS for scan in splits[split]]
    cases = {
        scan.case_id: done[scan.case_id]
        for _, scan in jobs
        if _is_done(done.get(scan.case_id), scan, output)
    }
    pending = [job for job in jobs if job[1].case_id not in cases]
    faults: list[str] = []
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(_crop_case, scan, split, box, output) for split, scan in pending]
        bar = tqdm(
            zip(pending, futures, strict=True),
            total=len(jobs),
            initial=len(cases),
            desc="cropping scans",
            unit="scan",
            disable=not progress,
        )
        try:
            for (_, scan), future in bar:
                try:
                    cases[scan.case_id] = future.result()
                except DatalistError as error:
                    faults.append(str(error))
                else:
                    _save_record(output, header, cases)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    cases = {scan.case_id: cases[scan.case_id] for _, scan in jobs if scan.case_id in cases}
    _save_record(output, header, cases)
    return cases, faults


def _save_record(output: Path, header: Mapping[str, Any], cases: Mapping[str, Any]) -> None:
    text = json.dumps({**header, "cases": cases}, indent=1) + "\n"
    write_text_atomic(output / PREPARATION_NAME, text)


def _check_options(crop: str, size: float, num_full: int | None, margin: float) -> None:
    if crop not in get_args(Crop):
        raise ValueError(f"crop is '{crop}'; use one of {list(get_args(Crop))}")
    if not (np.isfinite(size) and size > 0):
        raise ValueError(f"size is {size}; it is the side of the crop in mm and must be positive")
    if not (np.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin is {margin}; it is a width in mm and cannot be negative")
    if (crop == "full-masks") != (num_full is not None):
        raise ValueError(
            "the crop 'full-masks' needs num_full, the number of fully labeled cases whose masks "
            "it may use"
            if crop == "full-masks"
            else f"num_full is for the crop 'full-masks', not for '{crop}'"
        )
    if num_full is not None and num_full < 1:
        raise ValueError(f"num_full is {num_full}; at least one mask is needed")


def _choose_box(
    training: Sequence[Scan], crop: Crop, size: float, num_full: int | None, margin: float
) -> tuple[Box | None, dict[str, Any]]:
    """The box for all scans and the rule as it is recorded."""
    if crop == "center":
        return Box.centered(size), {"crop": crop, "size_mm": float(size)}
    if num_full is None:
        return None, {"crop": crop}
    if num_full > len(training):
        raise ValueError(
            f"num_full is {num_full}, but the training split has {len(training)} scans"
        )
    chosen = training[:num_full]
    box = mask_box((read_mask(scan.label) for scan in chosen), margin)
    if box is None:
        raise DatalistError(
            f"the masks of the first {num_full} training scans are empty; use --crop center"
        )
    names = [scan.case_id for scan in chosen]
    return box, {"crop": crop, "num_full": num_full, "margin_mm": float(margin), "masks_of": names}


def _done_before(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """The cases that an interrupted run with the same rule has done."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = all(record.get(key) == value for key, value in header.items())
        cases: dict[str, Any] = dict(record["cases"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatalistError(f"{path} cannot be read: {error}; --overwrite starts over") from error
    if not same:
        raise DatalistError(
            f"{path} records another crop or seed than asked for; choose another output folder, or "
            "give --overwrite to start over"
        )
    return cases


def _sizes(scan: Scan) -> list[int]:
    return [scan.image.stat().st_size, scan.label.stat().st_size]


def _is_done(record: dict[str, Any] | None, scan: Scan, output: Path) -> bool:
    files = [output / name / f"{scan.case_id}.nii.gz" for name in ("image", "label")]
    return (
        record is not None
        and record.get("source_bytes") == _sizes(scan)
        and all(file.is_file() for file in files)
    )


def _crop_case(scan: Scan, split: Split, box: Box | None, output: Path) -> dict[str, Any]:
    """Write one case's crops and return its record."""
    volume, mask = read_volume(scan.image, "scan"), read_mask(scan.label)
    check_scan(scan.image, volume)
    check_mask(scan.label, mask, volume)
    try:
        part = box_slices(volume.shape, volume.affine, box)
    except ValueError as error:
        raise DatalistError(f"{scan.image}: {error}") from error
    image, label = cropped(volume, part), cropped(mask, part)
    total, kept = (int(np.count_nonzero(voxels(each))) for each in (mask, label))
    # The mask lies on the scan's grid up to a rounding of its header: write one affine for both.
    label = Volume(label.shape, image.affine, voxels(label) != 0)
    name = f"{scan.case_id}.nii.gz"
    digests = (
        write_nifti(output / "image" / name, image, stored_dtype(voxels(image))),
        write_nifti(output / "label" / name, label, np.uint8),
    )
    return {
        "split": split,
        "source_shape": list(volume.shape),
        "start": [axis.start for axis in part],
        "stop": [axis.stop for axis in part],
        "foreground_voxels": total,
        "cut_voxels": total - kept,
        "image_sha256": digests[0],
        "label_sha256": digests[1],
        "source_bytes": _sizes(scan),
    }


def _warn_of_cuts(cases: dict[str, Any]) -> None:
    """Say afterwards where the crop has cut foreground; it was chosen without looking."""
    cut = {case_id: record for case_id, record in cases.items() if record["cut_voxels"]}
    if cut:
        listed = ", ".join(
            f"{case_id} ({record['split']}: {record['cut_voxels']} of "
            f"{record['foreground_voxels']} voxels)"
            for case_id, record in cut.items()
        )
        warnings.warn(
            f"the crop cuts foreground of {len(cut)} of {len(cases)} scans: {listed}. Scores on "
            "the cropped scans do not see what was cut; a larger crop keeps it",
            stacklevel=3,
        )


def _warn_of_doubles(cases: dict[str, Any]) -> None:
    """Say which cases are copies of another: across splits that is a leak."""
    for kind, what in (("image", "scans"), ("label", "masks")):
        groups: dict[str, list[str]] = {}
        for case_id, record in cases.items():
            groups.setdefault(record[f"{kind}_sha256"], []).append(f"{case_id} ({record['split']})")
        for names in groups.values():
            if len(names) > 1:
                warnings.warn(f"these {what} are identical: {', '.join(names)}", stacklevel=3)


def _write_datalist(splits: Mapping[Split, Sequence[Scan]], output: Path) -> Datalist:
    parts = {
        split: [
            Entry(
                image=f"image/{scan.case_id}.nii.gz",
                label=f"label/{scan.case_id}.nii.gz",
                supervision="full",
                case_id=scan.case_id,
            )
            for scan in scans
        ]
        for split, scans in splits.items()
    }
    datalist = Datalist(classes=list(LA_CLASSES), unlabeled=len(LA_CLASSES), **parts)
    datalist.save(output / DATALIST_NAME)
    return datalist.with_base_dir(output)
