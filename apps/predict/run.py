"""One run of ``mixseg predict``: every image through the bundle, its files, and their facts."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mixseg.apps.predict.images import CaseError, InputCase, root_cause
from mixseg.apps.predict.pipeline import BundlePipeline, OutputError, Prediction
from mixseg.apps.predict.preview import plot_prediction
from mixseg.apps.predict.quality import expected_dice
from mixseg.apps.predict.report import PredictionReport
from mixseg.configuration.processes import Processes
from mixseg.data import NativeNiftiWriter
from mixseg.data.file_checks import find_outlier
from mixseg.files.dicom_seg import write_dicom_seg
from mixseg.files.geometry import AFFINE_TOLERANCE
from mixseg.files.reading import UnreadableError, open_volume, split_suffix, voxels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What is written beside the masks."""

    probabilities: bool
    entropy: bool
    previews: int
    disagreement: bool = False
    dicom_seg: bool = False

    @property
    def kinds(self) -> list[str]:
        """The files of a finished case."""
        names = ("probabilities", "entropy", "disagreement", "dicom_seg")
        return ["mask", *(name for name in names if getattr(self, name))]


@dataclass
class PredictionRun:
    """One run: a pipeline, an output folder, and what became of each image."""

    pipeline: BundlePipeline
    cases: Sequence[InputCase]
    output: Path
    report: PredictionReport
    wanted: Wanted
    processes: Processes = field(default_factory=Processes)
    #: Where the mask of each case goes, relative to the output folder.
    masks: list[Path] = field(init=False)
    _on_cpu: BundlePipeline | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.masks = self.pipeline.output_names(self.cases)

    def predict_all(self, overwrite: bool, progress: bool) -> None:
        """Predict what is not finished of this process's share.

        A case that fails is entered in the report.

        Raises:
            OutputError: the output folder cannot be written any more.
        """
        numbered = enumerate(zip(self.cases, self.masks, strict=True))
        share = [one for one in numbered if self.processes.takes(one[0])]
        with tqdm(total=len(share), desc="predicting", unit="case", disable=not progress) as bar:
            for number, (case, mask) in share:
                bar.set_postfix_str(case.case_id)
                if not overwrite and self.report.finished(case, mask, self.wanted.kinds):
                    self.report.skipped += 1
                else:
                    try:
                        self._predict(case, mask, number)
                    except CaseError as error:
                        self.report.fail(case, mask, error)
                bar.update()

    def _predict(self, case: InputCase, mask: Path, number: int) -> None:
        started = time.monotonic()
        # A case that failed may have left files behind.
        shutil.rmtree(self.pipeline.staging, ignore_errors=True)
        self.pipeline.staging.mkdir(parents=True)
        stamp = case.stamp
        shape = _check_axes(case, self.pipeline.axes, self.pipeline.channels)
        prediction, warnings = self._predicted(case)
        warnings = [*_remarks_of(case), *warnings]
        entropy, apart = prediction.entropy(), prediction.disagreement
        outputs = {"mask": mask}
        try:
            if self.wanted.dicom_seg:
                outputs["dicom_seg"] = self._write_dicom_seg(case, mask, prediction)
            for kind, data in (
                ("probabilities", prediction.probabilities),
                ("entropy", None if entropy is None else entropy[None]),
                ("disagreement", None if apart is None else apart[None]),
            ):
                if kind in self.wanted.kinds and data is not None:
                    outputs[kind] = self._write_map(case, mask, kind, data, prediction.meta)
            self._publish(case)
            if number < self.wanted.previews:
                try:
                    outputs["preview"] = self._draw(case, mask, prediction, entropy)
                except ValueError as error:
                    # What cannot be drawn is no reason to lose the mask.
                    warnings.append(f"no preview: {error}")
        except OSError as error:
            raise OutputError(str(error)) from error
        except ValueError as error:  # what a writer cannot express
            raise _why(error, case) from error
        facts = _facts(prediction, entropy, shape, self.pipeline.class_names)
        if apart is not None:
            facts["mean_disagreement"] = round(float(apart.mean()), 6)
        facts["warnings"] = [*warnings, *facts["warnings"]]
        facts["seconds"] = round(time.monotonic() - started, 2)
        self.report.add(case, stamp, outputs, facts)

    def _predicted(self, case: InputCase) -> tuple[Prediction, list[str]]:
        """The prediction, on the CPU where the device has no memory for it, and what to note."""
        pipeline = self.pipeline
        try:
            return self._through(pipeline, case), []
        except torch.OutOfMemoryError:
            if pipeline.device.type == "cpu":
                raise CaseError("failed", "out of memory", "crop or resample the image") from None
        # Not in the handler, whose traceback would keep the activations alive.
        if pipeline.device.type == "cuda":
            torch.cuda.empty_cache()
        note = f"out of memory on {pipeline.device}, predicted on the CPU"
        logger.warning("%s: %s", case.image, note)
        if self._on_cpu is None:
            self._on_cpu = pipeline.on(torch.device("cpu"))
        return self._through(self._on_cpu, case), [note]

    def _through(self, pipeline: BundlePipeline, case: InputCase) -> Prediction:
        try:
            batch = pipeline.prepare({"image": case.source, "case_id": case.case_id})
            return pipeline.predict(batch)
        except (OutputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the components of a bundle raise
            if isinstance(root_cause(error), torch.OutOfMemoryError):
                raise root_cause(error) from None
            raise _why(error, case) from error

    def _write_map(
        self, case: InputCase, mask: Path, kind: str, data: Any, meta: Mapping[str, Any]
    ) -> Path:
        """A float32 image (channels, *spatial) beside the mask, with its name and ``_kind``."""
        path = mask.with_name(f"{_stem(mask)}_{kind}.nii.gz").relative_to(case.folder)
        writer = NativeNiftiWriter(output_dtype=np.float32)
        writer.set_data_array(data, channel_dim=0)
        writer.set_metadata(meta, resample=False)
        (self.pipeline.staging / path).parent.mkdir(parents=True, exist_ok=True)
        writer.write(self.pipeline.staging / path)
        return case.folder / path

    def _write_dicom_seg(self, case: InputCase, mask: Path, prediction: Prediction) -> Path:
        """A DICOM SEG beside the mask, with its name."""
        scan, header = open_volume(case.source, voxels=False), self.report.header
        affine = np.asarray(prediction.meta["affine"])
        same = prediction.mask.size == math.prod(scan.shape)
        if not (same and np.allclose(affine, scan.affine, atol=AFFINE_TOLERANCE)):
            raise CaseError(
                "failed", "the mask is not in the grid of the scan", "leave out --dicom-seg"
            )
        target = mask.with_name(f"{_stem(mask)}.dcm").relative_to(case.folder)
        try:
            write_dicom_seg(
                self.pipeline.staging / target,
                case.image,
                prediction.mask.reshape(scan.shape),
                scan.affine,
                self.pipeline.class_names,
                (header["bundle"], header["version"]),
            )
        except UnreadableError as error:
            raise CaseError("failed", str(error), error.fix) from error
        return case.folder / target

    def _publish(self, case: InputCase) -> None:
        """Move the files of a finished case to where they belong."""
        staging = self.pipeline.staging
        for path in sorted(p for p in staging.rglob("*") if p.is_file()):
            target = self.output / case.folder / path.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    def _draw(self, case: InputCase, mask: Path, prediction: Prediction, entropy: Any) -> Path:
        path = Path("preview") / case.folder / f"{_stem(mask)}.png"
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        names, planes = self.pipeline.class_names, self.pipeline.network_dims == 3
        plot_prediction(case, prediction, entropy, self.output / path, names, planes)
        return path


def _check_axes(case: InputCase, axes: Collection[int], channels: int) -> tuple[int, ...]:
    """The shape by the header, if its axes and channels are what the bundle takes."""
    try:
        volume = open_volume(case.source, voxels=False)
    except UnreadableError as reason:
        raise _unreadable("unreadable", case.image, reason) from reason
    shape = volume.shape
    if volume.palette:
        raise CaseError(
            "unreadable",
            "the image is a palette picture, whose numbers are not intensities",
            "store it as gray or RGB",
        )
    sizes = "×".join(map(str, shape))
    if len(shape) not in axes:
        taken = " or ".join(map(str, sorted(axes)))
        raise CaseError(
            "wrong dimension",
            f"the image has {len(shape)} axes ({sizes}), the bundle takes {taken}",
            "store the slices as one volume, with the slice axis last",
        )
    if volume.channels != channels:
        raise CaseError(
            "wrong dimension",
            f"the image has {volume.channels} channels ({sizes}), the bundle takes {channels}",
            "store the channels that it was trained on; of a series in time, one frame per file",
        )
    return shape


def _remarks_of(case: InputCase) -> list[str]:
    """What is odd about an image that can be predicted all the same."""
    volume = open_volume(case.source)
    found = [f"{remark.problem}; {remark.fix}" for remark in volume.remarks]
    outlier = find_outlier(voxels(volume))
    return found + ([] if outlier is None else ["; ".join(outlier)])


def _why(error: BaseException, case: InputCase) -> CaseError:
    """What is wrong with an image whose preparation or prediction failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CaseError):
            return cause
        cause = cause.__cause__
    error = root_cause(error)
    # PyTorch has no error of its own for the memory of the CPU.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return CaseError("failed", "out of memory", "crop or resample the image")
    try:
        open_volume(case.source)
    except UnreadableError as reason:
        return _unreadable("truncated", case.image, reason)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    problem = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return CaseError("failed", problem, "see it alone with 'python -m monai.bundle run inference'")


def _unreadable(kind: str, image: Path, reason: UnreadableError) -> CaseError:
    name = "NIfTI" if image.name.lower().endswith((".nii", ".nii.gz")) else "image"
    return CaseError(kind, f"the image is not a readable {name} file ({reason})", reason.fix)


def _stem(mask: Path) -> str:
    parts = split_suffix(mask.name)
    return parts[0] if parts else mask.stem


def _facts(
    prediction: Prediction,
    entropy: np.ndarray | None,
    shape: tuple[int, ...],
    class_names: Sequence[str],
) -> dict[str, Any]:
    counts = np.bincount(prediction.mask.ravel(), minlength=len(class_names)).tolist()
    voxels = dict(zip(class_names, counts, strict=True))
    del voxels[class_names[0]]
    spacing = prediction.spacing if len(shape) == 3 else None
    warnings = list(prediction.warnings)
    absent = [name for name, count in voxels.items() if not count]
    if len(absent) == len(voxels):
        warnings.append("empty prediction: no voxel of any class")
    elif absent:
        warnings.append(f"no voxel of {', '.join(absent)}")
    if prediction.constant:
        warnings.append("the image is constant (all voxels are equal)")
    if spacing is None:
        warnings.append("the voxel size is not known: sizes are in voxels, not in ml")
    probabilities = prediction.probabilities
    quality = None if probabilities is None else expected_dice(probabilities, prediction.mask)
    millilitres = None
    if spacing is not None:
        size = float(np.prod(spacing)) / 1000
        millilitres = {name: round(count * size, 3) for name, count in voxels.items()}
    return {
        "shape": list(shape),
        "spacing_mm": None if spacing is None else [round(size, 6) for size in spacing],
        "voxels": voxels,
        "ml": millilitres,
        "mean_entropy": None if entropy is None else round(float(entropy.mean()), 6),
        "quality": None if quality is None else round(quality, 6),
        "warnings": warnings,
    }
