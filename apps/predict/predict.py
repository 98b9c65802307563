"""What ``mixseg predict`` does: bundles and images are found, then each image is predicted."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.find import bundle_name, find_trained
from mixseg.apps.bundle.info import network_inputs
from mixseg.apps.bundle.weights import bundle_weights
from mixseg.apps.bundle.workflow import check_settings
from mixseg.apps.predict.images import find_cases
from mixseg.apps.predict.pipeline import BundlePipeline, choose_device
from mixseg.apps.predict.report import PredictionReport, rank_folder, settings_digest
from mixseg.apps.predict.run import PredictionRun, Wanted
from mixseg.configuration.loading import configurations, load
from mixseg.configuration.processes import Processes
from mixseg.configuration.settings import settings_of
from mixseg.configuration.threads import share_processors
from mixseg.files.atomic import ensure_writable
from mixseg.files.dicom_seg import require_highdicom
from mixseg.files.lock import claim
from mixseg.files.provenance import environment, sha256_of

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
    Arguments are as of the command. Of several bundles, such as the folds of a cross-validation,
    the probabilities are averaged, a map of their disagreement is written, and masks are as the
    first one says.

    Args:
        processes: that share the images; None for this one alone.

    Yields:
        The run, to be begun by :meth:`PredictionRun.predict_all`.

    Raises:
        ValueError: there is no such bundle, image, file, setting, device or weights, the weights
            do not fit, two masks would have one name, another prediction writes to ``output``, or
            DICOM SEG is wanted without highdicom or of an image that is not DICOM.
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
    channels = int(network_inputs(members[0][0])["num_channels"])
    cases, left_out = find_cases(sources, output, channels, only_dicom=wanted.dicom_seg)
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
        pipeline.output_names(cases)  # two of one name are refused before anything is written
        report = PredictionReport(output, _header(pipeline), len(cases), processes.rank)
        report.left_out = left_out
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
    weights = bundle_weights(folder, weights)
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


def _header(pipeline: BundlePipeline) -> dict[str, Any]:
    members = [described(one) for one in (pipeline, *pipeline.others)]
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


def described(pipeline: BundlePipeline) -> dict[str, Any]:
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
