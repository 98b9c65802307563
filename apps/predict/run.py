"""One run of ``mixseg predict``: every image through the bundle, its files, and their facts."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mixseg.apps.bundle.find import bundle_name, find_trained
from mixseg.apps.bundle.weights import bundle_weights
from mixseg.apps.bundle.workflow import check_settings
from mixseg.apps.predict.images import (
    CaseError,
    InputCase,
    check_axes,
    join_channels,
    place_cases,
    refuse_other_than_dicom,
    refuse_same_outputs,
    remarks_of,
    root_cause,
    search_cases,
    why,
)
from mixseg.apps.predict.pipeline import (
    BundlePipeline,
    OutputError,
    Prediction,
    choose_device,
)
from mixseg.apps.predict.preview import plot_prediction
from mixseg.apps.predict.quality import expected_dice
from mixseg.apps.predict.report import (
    PredictionReport,
    rank_folder,
    settings_digest,
    stamp_of,
)
from mixseg.configuration.loading import configurations, load
from mixseg.configuration.processes import Processes
from mixseg.configuration.settings import settings_of
from mixseg.configuration.threads import share_processors
from mixseg.data import NativeNiftiWriter
from mixseg.files.atomic import ensure_writable
from mixseg.files.dicom_seg import require_highdicom, write_dicom_seg
from mixseg.files.geometry import AFFINE_TOLERANCE
from mixseg.files.lock import claim
from mixseg.files.provenance import environment, sha256_of
from mixseg.files.reading import UnreadableError, open_volume, split_suffix

__all__ = ["PredictionRun", "Wanted", "claimed", "open_run", "output_names"]

logger = logging.getLogger(__name__)

#: Settings of inference.yaml that a prediction gives by arguments of its own.
ARGUMENTS = {
    "bundle_root": "the bundle",
    "dataset_dir": "--input",
    "output_dir": "--output",
    "ckpt_dir": "--weights",
    "checkpoint": "--weights",
    "device": "--device",
    "progress": "--quiet",
}
_STAGING = ".unfinished"


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
        names = {"mask": True, "probabilities": self.probabilities, "entropy": self.entropy}
        names |= {"disagreement": self.disagreement, "dicom_seg": self.dicom_seg}
        return [name for name, wanted in names.items() if wanted]


@contextmanager
def open_run(
    bundle: str | Path | Sequence[str | Path],
    sources: Sequence[Path],
    output: Path,
    *,
    weights: Path | None = None,
    device: str | None = None,
    config: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    wanted: Wanted,
    processes: Processes | None = None,
) -> Iterator[PredictionRun]:
    """A bundle with its weights, and the images that it is to segment.

    Of several processes, each predicts its share of the images. The first one waits for the others
    when the block ends, and writes one report for all.

    Args:
        bundle: folder of a run or of a bundle, a zip of ``mixseg pack``, or a bundle's name; of
            several, such as the folds of a cross-validation, the probabilities are averaged, and a
            map of their disagreement is written. Masks are written as the first one says.
        sources: images, and folders of images.
        output: folder for masks and report.
        weights: file of weights, of one bundle; None for each bundle's own, downloaded if needed.
        device: where the network runs; None for CUDA if available.
        config: files to pass after ``inference.yaml``.
        settings: entries of the configuration with other values.
        wanted: what to write beside the masks.
        processes: that share the images; None for this one alone.

    Yields:
        The run, to be begun by :meth:`PredictionRun.predict_all`.

    Raises:
        ValueError: there is no such bundle, image, file, setting, device or weights, the weights
            do not fit, two masks would have one name, another prediction writes to ``output``, or
            DICOM SEG is wanted without highdicom or of an image that is no DICOM.
    """
    processes = processes or Processes()
    if wanted.dicom_seg:
        require_highdicom()
    settings = dict(settings or {})
    bundles = [bundle] if isinstance(bundle, str | Path) else list(bundle)
    if len(bundles) > 1 and (weights is not None or settings.get("exported")):
        raise ValueError(
            "--weights and --exported need a single bundle: several have their own weights"
        )
    members = [_member(one, weights, config, settings) for one in bundles]
    found = [search_cases(source, output) for source in sources]
    cases = place_cases([case for listed, _ in found for case in listed])
    if wanted.dicom_seg:
        refuse_other_than_dicom(cases)
    ensure_writable([output], "-o")
    chosen = choose_device(processes.device_for(device))
    share_processors()
    with claimed(rank_folder(output, processes.rank)) as staging:
        others = [BundlePipeline(*member, chosen, staging) for member in members[1:]]
        pipeline = BundlePipeline(*members[0], chosen, staging, others=others)
        wanted = replace(wanted, disagreement=bool(others))
        if (wanted.probabilities or wanted.entropy) and not pipeline.has_probabilities:
            raise ValueError(
                f"'{pipeline.files[0]}' makes no mask of probabilities by argmax (AsDiscreted): "
                "leave out --probabilities and --entropy"
            )
        cases = join_channels(cases, pipeline.channels)
        refuse_same_outputs(cases, output_names(pipeline, cases))
        report = PredictionReport(output, run_header(pipeline), len(cases), processes.rank)
        report.left_out = [sentence for _, left_out in found for sentence in left_out]
        yield PredictionRun(pipeline, cases, output, report, wanted, processes)
        if processes.count > 1 and processes.first:
            processes.meet()
            report.collect(processes.count)
            report.finish()
    if not processes.first:
        processes.meet()


def _member(
    bundle: str | Path,
    weights: Path | None,
    config: Sequence[Path],
    settings: Mapping[str, Any],
) -> tuple[Path, list[Path], Mapping[str, Any], Path | None]:
    """Folder, files, settings and weights of a bundle; the weights are None of an exported one."""
    folder = find_trained(bundle)
    files = [folder / "configs" / "inference.yaml", *configurations(folder, config)]
    check_settings(settings, settings_of(files), "inference.yaml", ARGUMENTS)
    exported = settings.get("exported")
    if weights is None and exported:
        weights = Path(str(exported))
    elif weights is None:
        weights = bundle_weights(folder)
    if not weights.is_file():
        raise ValueError(f"there is no '{weights}': give the weights with --weights")
    return folder, files, settings, None if exported else weights


@contextmanager
def claimed(output: Path) -> Iterator[Path]:
    """Claim an output folder for one prediction.

    Yields:
        A new folder in it for files that are not finished; it goes when the prediction ends, and so
        does what a killed one left.

    Raises:
        ValueError: another prediction writes to the folder.
    """
    with claim(output, "this prediction"):
        for left in output.glob(f"{_STAGING}*"):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
        # Of a name that nobody can guess: no link can lie in wait there.
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=output))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


class PredictionRun:
    """One run: a pipeline, an output folder, and what became of each image."""

    def __init__(
        self,
        pipeline: BundlePipeline,
        cases: Sequence[InputCase],
        output: Path,
        report: PredictionReport,
        wanted: Wanted,
        processes: Processes = Processes(),  # noqa: B008  # frozen
    ) -> None:
        self.pipeline = pipeline
        self.cases = cases
        self.output = output
        self.report = report
        self.wanted = wanted
        self.processes = processes
        self._on_cpu: BundlePipeline | None = None

    def predict_all(self, overwrite: bool, progress: bool) -> None:
        """Predict what is not finished of this process's share.

        A case that fails is entered in the report.

        Raises:
            OutputError: the output folder cannot be written any more.
        """
        masks = output_names(self.pipeline, self.cases)
        numbered = enumerate(zip(self.cases, masks, strict=True))
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
        stamp = stamp_of(*case.files)
        shape = check_axes(case, self.pipeline.axes, self.pipeline.channels)
        prediction, warnings = self._predicted(case)
        warnings = [*remarks_of(case), *warnings]
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
            raise why(error, case) from error
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
            raise why(error, case) from error

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


def output_names(pipeline: BundlePipeline, cases: Sequence[InputCase]) -> list[Path]:
    """Where the masks go, relative to the output folder."""
    return [case.folder / pipeline.output_name(str(case.image)) for case in cases]


def _stem(mask: Path) -> str:
    parts = split_suffix(mask.name)
    return parts[0] if parts else mask.stem


def _facts(
    prediction: Prediction,
    entropy: np.ndarray | None,
    shape: tuple[int, ...],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """What the report says of a case."""
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
        "quality": _quality(prediction),
        "warnings": warnings,
    }


def _quality(prediction: Prediction) -> float | None:
    """The expected Dice; None without probabilities, and where nothing was found."""
    if prediction.probabilities is None:
        return None
    quality = expected_dice(prediction.probabilities, prediction.mask)
    return None if quality is None else round(quality, 6)


def run_header(pipeline: BundlePipeline) -> dict[str, Any]:
    """Header of the report, common to all cases."""
    members = [_described(one) for one in (pipeline, *pipeline.others)]
    first, others = members[0], members[1:]
    identity = ("bundle", "version", "files", "weights_sha256", "settings")
    digests = [{name: member[name] for name in identity} for member in members]
    shown = ("bundle", "version", "configuration", "settings", "weights", "weights_sha256")
    base = load(pipeline.files[0])
    measured = load(pipeline.bundle / "configs" / "metadata.json").get("expected_quality")
    if not isinstance(measured, dict) or measured.get("weights_sha256") != first["weights_sha256"]:
        measured = None
    return {
        **{name: first[name] for name in shown},
        "changed_settings": {
            name: [base.get(name), value] for name, value in pipeline.settings.items()
        },
        "expected_quality": measured,
        "averaged_with": [{name: other[name] for name in shown} for other in others],
        "digest": settings_digest({"members": digests}),
        "classes": pipeline.class_names,
        "device": str(pipeline.device),
        "precision": pipeline.precision,
        **environment(),
    }


def _described(pipeline: BundlePipeline) -> dict[str, Any]:
    """A bundle with its weights, for the report."""
    metadata = load(pipeline.bundle / "configs" / "metadata.json")
    weights = pipeline.weights or Path(str(pipeline.settings.get("exported")))
    return {
        "bundle": bundle_name(pipeline.bundle),
        "version": str(metadata.get("version", "")),
        "files": [[path.name, sha256_of(path)] for path in pipeline.files],
        "configuration": [str(path) for path in pipeline.files],
        "settings": dict(pipeline.settings),
        "weights": str(weights),
        "weights_sha256": sha256_of(weights),
    }
