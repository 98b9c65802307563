"""Bundles in Python: predict, train and evaluate."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixseg.apps.bundle.find import find_bundle
from mixseg.apps.bundle.info import network_inputs
from mixseg.apps.bundle.workflow import evaluate_run, train_bundle
from mixseg.apps.predict.predict import open_run
from mixseg.apps.predict.run import PredictionRun, Wanted
from mixseg.configuration.loading import load
from mixseg.files.documents import read_object
from mixseg.files.reading import is_picture, open_volume

__all__ = ["Bundle", "CaseResult"]

_Path = str | PathLike[str]


@dataclass(frozen=True)
class CaseResult:
    """Prediction of a bundle for one image.

    Attributes:
        case_id: name of the case.
        image: the image's file; None for an array.
        mask: class of each voxel in the image's own grid: (x, y, z) uint8 as nibabel reads a
            volume, (rows, columns) for a picture.
        affine: voxel indices to mm, 4×4, right–anterior–superior; None for a picture.
        volumes_ml: volume of each class but the background by its name; None where the size of a
            voxel is not known.
        quality: expected Dice, 0 to 1: that of the mask if the network's probabilities were right,
            mean over the classes found. It orders the cases of one model, worst first; None where
            nothing was found.
        path: the mask's file; None where no output folder was given.
        dicom_seg: the mask as DICOM SEG; None where none was asked for.
    """

    case_id: str
    image: Path | None
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64] | None
    volumes_ml: dict[str, float] | None
    quality: float | None
    path: Path | None
    dicom_seg: Path | None = None


class Bundle:
    """A bundle of this project, or one that it packed.

    Args:
        source: folder of a bundle or of a run, a zip of ``mixseg pack``, or a bundle's name.
        weights: file of weights; None for the bundle's own.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …; None for CUDA if available.

    Attributes:
        source: as given.
        folder: the bundle's folder.

    Raises:
        ValueError: there is no such bundle.
    """

    def __init__(
        self, source: _Path, *, weights: _Path | None = None, device: str | None = None
    ) -> None:
        self.source = Path(source)
        self.folder = find_bundle(source)
        self.weights = None if weights is None else Path(weights)
        self.device = device

    def __repr__(self) -> str:
        return f"Bundle({str(self.source)!r})"

    @property
    def name(self) -> str:
        """Name of the bundle's folder."""
        return self.folder.resolve().name

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of ``metadata.json``."""
        return load(self.folder / "configs" / "metadata.json")

    @overload
    def predict(
        self,
        images: NDArray[Any],
        output: _Path | None = None,
        *,
        affine: NDArray[Any] | None = None,
        **settings: Any,
    ) -> CaseResult: ...

    @overload
    def predict(
        self,
        images: _Path | Sequence[_Path],
        output: _Path | None = None,
        *,
        dicom_seg: bool = False,
        **settings: Any,
    ) -> list[CaseResult]: ...

    def predict(
        self,
        images: _Path | Sequence[_Path] | NDArray[Any],
        output: _Path | None = None,
        *,
        affine: NDArray[Any] | None = None,
        dicom_seg: bool = False,
        **settings: Any,
    ) -> CaseResult | list[CaseResult]:
        """Segment images.

        Args:
            images: a file, a folder of files, or a list of both; or one array, (x, y, z) with its
                ``affine`` for a volume, (rows, columns[, channels]) uint8 for a picture.
            output: folder for masks, report and previews, as of ``mixseg predict``; a case that
                is finished there is not predicted again. None keeps nothing.
            affine: of an array: voxel indices to mm, 4×4, right–anterior–superior.
            dicom_seg: of DICOM series: write a DICOM segmentation beside each mask in ``output``,
                which needs ``mixseg[dicom]``.
            settings: entries of ``inference.yaml`` with other values, such as ``branch="teacher"``.

        Returns:
            A list with one :class:`CaseResult` a case; for an array that result itself.

        Raises:
            ValueError: no image is found, a setting is unknown, there are no weights, or DICOM SEG
                is wanted without an output folder, of images that are no DICOM, or without
                highdicom; or images cannot be predicted, all named once the others are done.
        """
        if dicom_seg and (output is None or isinstance(images, np.ndarray)):
            raise ValueError("DICOM SEG refers to files of a series: give these, and an output")
        with tempfile.TemporaryDirectory(prefix="mixseg") as temporary:
            folder = Path(temporary) / "masks" if output is None else Path(output)
            if not isinstance(images, np.ndarray):
                paths = [images] if isinstance(images, (str, PathLike)) else list(images)
                return self._predict(
                    [Path(path) for path in paths], folder, output, settings, dicom_seg
                )
            channels = int(network_inputs(self.folder)["num_channels"])
            file = _write(images, affine, Path(temporary) / "image", channels)
            (result,) = self._predict([file], folder, output, settings)
            return CaseResult(**{**vars(result), "image": None})

    def train(
        self,
        data: _Path | None = None,
        output: _Path | None = None,
        *,
        config: _Path | Sequence[_Path] = (),
        resume: bool = False,
        overwrite: bool = False,
        **settings: Any,
    ) -> Bundle:
        """Train in a process of its own, as ``mixseg train`` does.

        Args:
            data: folder of the data; None for the one that the bundle names.
            output: folder of the run; None for ``eval`` in the bundle's folder.
            config: files to pass after ``train.yaml``.
            resume: continue the training that ``output`` holds.
            overwrite: start again where it holds one.
            settings: entries of ``train.yaml`` with other values, such as ``max_epochs=100``.

        Returns:
            The trained run, itself a bundle.

        Raises:
            ValueError: a file or a setting does not exist; ``output`` is missing, or holds a
                training and it is not said what to do with it.
            ChildProcessError: the training failed; says why.
        """
        run = train_bundle(
            self.source,
            data=_path(data),
            output=_path(output),
            config=_paths(config),
            settings=settings,
            device=self.device,
            resume=resume,
            overwrite=overwrite,
        )
        return Bundle(run, device=self.device)

    def evaluate(
        self,
        data: _Path | None = None,
        split: str = "test",
        output: _Path | None = None,
        *,
        config: _Path | Sequence[_Path] = (),
        **settings: Any,
    ) -> dict[str, Any]:
        """Score the weights in a process of its own, as ``mixseg evaluate`` does.

        Args:
            data: folder of the data; None for the one that the run names.
            split: ``"test"`` or ``"validation"``.
            output: folder of ``metrics.csv``, ``summary.json`` and pictures; None for one named
                after the split in the run's folder.
            config: files to pass after ``train.yaml``.
            settings: entries of the configuration with other values.

        Returns:
            Content of ``summary.json``.

        Raises:
            ValueError: a file, a setting or the split does not exist, or there are no weights.
            ChildProcessError: the evaluation failed; says why.
        """
        scores = evaluate_run(
            self.source,
            data=_path(data),
            output=_path(output),
            split=split,
            weights=self.weights,
            config=_paths(config),
            settings=settings,
            device=self.device,
        )
        return read_object(scores / "summary.json")

    def _predict(
        self,
        paths: list[Path],
        folder: Path,
        output: _Path | None,
        settings: Mapping[str, Any],
        dicom_seg: bool = False,
    ) -> list[CaseResult]:
        previews = 10 * (output is not None)
        wanted = Wanted(probabilities=False, entropy=False, previews=previews, dicom_seg=dicom_seg)
        with open_run(
            self.source,
            paths,
            folder,
            weights=self.weights,
            device=self.device,
            settings=settings,
            wanted=wanted,
        ) as run:
            run.predict_all(overwrite=False, progress=False)
            if output is None:
                run.report.save()
            else:
                run.report.finish()
            if failures := run.report.failures.values():
                lines = "".join(f"\n  {f['input']}: {f['problem']}; {f['fix']}" for f in failures)
                raise ValueError(f"{len(failures)} images could not be predicted:{lines}")
            return _results(run, keep=output is not None)


def _results(run: PredictionRun, keep: bool) -> list[CaseResult]:
    """The results of a finished run, in the order of its cases."""
    results = []
    for case, name in zip(run.cases, run.masks, strict=True):
        facts, file = run.report.cases[name.as_posix()], run.output / name
        volume = open_volume(file)
        assert volume.data is not None
        picture = is_picture(file)
        mask = volume.data.reshape(volume.shape).astype(np.uint8)
        seg = facts["outputs"].get("dicom_seg")
        results.append(
            CaseResult(
                case_id=case.case_id,
                image=case.image,
                mask=mask.T if picture else mask,
                affine=None if picture else np.asarray(volume.affine, dtype=float),
                volumes_ml=facts["ml"],
                quality=facts.get("quality"),
                path=file if keep else None,
                dicom_seg=None if seg is None else run.output / seg,
            )
        )
    return results


def _write(array: NDArray[Any], affine: NDArray[Any] | None, place: Path, channels: int) -> Path:
    """The image's file: a volume with an affine, else a picture.

    Raises:
        ValueError: the array is neither, or a volume has no affine.
    """
    if affine is not None:
        if array.ndim < 3 or np.shape(affine) != (4, 4):
            raise ValueError(
                f"a volume has three axes and an affine of 4×4, got {array.shape} and "
                f"{np.shape(affine)}"
            )
        path = place.with_suffix(".nii.gz")
        # NIfTI has neither of these types.
        stored = {"bool": np.uint8, "float16": np.float32}.get(array.dtype.name)
        values = array if stored is None else array.astype(stored)
        nib.save(nib.Nifti1Image(values, affine, dtype=values.dtype), path)
        return path
    shape = array.shape[:2] if channels == 1 else (*array.shape[:2], channels)
    if array.dtype != np.uint8 or array.ndim < 2 or array.shape != shape:
        raise ValueError(
            f"a picture is uint8 of shape (rows, columns{', channels' * (channels > 1)}), got "
            f"{array.dtype} of shape {array.shape}; a volume needs its affine"
        )
    path = place.with_suffix(".png")
    Image.fromarray(array).save(path)
    return path


def _path(path: _Path | None) -> Path | None:
    return None if path is None else Path(path)


def _paths(paths: _Path | Sequence[_Path]) -> list[Path]:
    return [Path(p) for p in ([paths] if isinstance(paths, (str, PathLike)) else paths)]
