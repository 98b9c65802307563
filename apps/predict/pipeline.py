"""A bundle's own inference, one case at a time: what ``mixseg predict`` runs."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.handlers import CheckpointLoader
from monai.inferers import SliceInferer
from monai.transforms import AsDiscreted, Compose, Invertd, SaveImaged
from numpy.typing import NDArray

from mixseg.apps.bundle.info import network_inputs
from mixseg.apps.predict.images import CaseError, InputCase, root_cause
from mixseg.configuration.kinds import refuse_resolved
from mixseg.configuration.loading import cause_of, load_all
from mixseg.configuration.paths import literal_path
from mixseg.engines.precision import autocast_dtype
from mixseg.files.geometry import spacing_mm
from mixseg.files.reading import subject_name
from mixseg.files.weights import read_weights
from mixseg.transforms import AddDepthd

#: Largest distance of a voxel's probabilities from the sum 1 that counts as rounding.
_SUM_TOLERANCE = 1e-3
#: Bytes of a mask's name, so that those of its maps and previews have at most 255.
_LONGEST_NAME = 240
#: Where a prepared case keeps what further networks see of it.
_OTHERS = "others"


class OutputError(Exception):
    """The masks cannot be written: no further case can succeed."""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image, in the image's own grid.

    Attributes:
        mask: class of each voxel, (*spatial).
        probabilities: of each class, (C, *spatial) float32, each voxel's sum 1; None where the
            bundle makes no mask of probabilities by argmax.
        meta: metadata of the mask, with ``affine``.
        spacing: size of a voxel in mm, None where the file does not know it.
        constant: whether all voxels of the prepared image are equal.
        warnings: what the inferer logged.
        disagreement: of several runs that were averaged, see :func:`disagreement`: (*spatial)
            float32 in [0, 1]; None of one run.
    """

    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None
    meta: dict[str, Any]
    spacing: tuple[float, ...] | None
    constant: bool
    warnings: tuple[str, ...]
    disagreement: NDArray[np.float32] | None = None

    def entropy(self) -> NDArray[np.float32] | None:
        """Shannon entropy of each voxel over ln C, in [0, 1]: (*spatial) float32."""
        return None if self.probabilities is None else _entropy(self.probabilities)


def disagreement(members: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """How far the predictions of several networks are from each other, at each voxel.

    The Jensen–Shannon divergence of their probabilities over ln C: the entropy of the mean less
    the mean of the entropies. It is 0 where all say the same, however unsure they are, and largest
    where each is sure of another class.

    Args:
        members: probabilities (C, *spatial) of each network, each voxel's sum 1.

    Returns:
        (*spatial) float32 in [0, 1].
    """
    mean = np.mean(np.stack(members), axis=0)
    apart = _entropy(mean) - np.mean(np.stack([_entropy(p) for p in members]), axis=0)
    return np.clip(apart, 0.0, 1.0)


def _entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shannon entropy of (C, *spatial) at each voxel over ln C."""
    total = np.zeros(probabilities.shape[1:], np.float32)
    for p in probabilities:  # class by class: one map more, not C
        total -= p * np.log(np.maximum(p, np.float32(1e-12)))
    return np.clip(total / np.float32(math.log(len(probabilities))), 0.0, 1.0)


class _Mean:
    """A step of the postprocessing that averages the probabilities with those of other networks."""

    def __init__(self) -> None:
        self.others: list[NDArray[np.float32]] = []
        self.disagreement: NDArray[np.float32] | None = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.others:
            own = item["pred"]
            members = [_complete(own), *self.others]
            self.disagreement = disagreement(members)
            mean = torch.from_numpy(np.mean(np.stack(members), axis=0))
            item["pred"] = MetaTensor(mean).copy_meta_from(own)
        return item


class _Tap:
    """A step of the postprocessing that remembers the probabilities on their way to the mask."""

    def __init__(self) -> None:
        self.probabilities: torch.Tensor | None = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        self.probabilities = item["pred"]
        return item


class MaskWriter(Protocol):
    """What can take the place of a bundle's writer."""

    def output_name(self, case: InputCase) -> Path:
        """Where the mask of a case goes, relative to the output folder, without its suffix."""
        ...

    def write(self, item: dict[str, Any], folder: Path, save: Any) -> dict[str, Any]:
        """Write the mask ``pred`` of a case below a folder by MONAI's ``SaveImage``."""
        ...


@dataclass
class BundlePipeline:
    """The evaluator that ``inference.yaml`` describes, fed with one case at a time.

    Nothing of the bundle's pipeline is repeated here: its dataset, loader, inferer, network,
    postprocessing and writer are the ones that ``monai.bundle run inference`` would use.

    Args:
        files: ``inference.yaml`` and the overlays after it.
        settings: entries of these files that are replaced.
        weights: checkpoint; None where a setting names an exported network instead.
        staging: folder that the postprocessing writes to.
        others: further networks, whose probabilities are averaged with this one's before anything
            is chosen by them. What follows, and the mask's file, is this bundle's.

    Raises:
        ValueError: the configuration cannot be built, the weights do not fit its network, or the
            others segment something else.
    """

    bundle: Path
    files: Sequence[Path]
    settings: Mapping[str, Any]
    weights: Path | None
    device: torch.device
    staging: Path
    others: Sequence[BundlePipeline] = field(default=(), kw_only=True)
    writer: MaskWriter | None = field(default=None, kw_only=True)
    #: Names of all classes, background first.
    class_names: list[str] = field(init=False)
    #: Whether the postprocessing makes the mask of probabilities, by argmax.
    has_probabilities: bool = field(init=False)
    #: Numbers of axes that an image may have.
    axes: set[int] = field(init=False)
    #: Spatial axes that the network sees at a time.
    network_dims: int = field(init=False)
    #: Channels that an image must have.
    channels: int = field(init=False)
    #: Type of the forward pass, such as ``bfloat16``.
    precision: str = field(init=False)

    def __post_init__(self) -> None:
        image = network_inputs(self.bundle)
        self.channels = int(image["num_channels"])
        self.network_dims = len(image["spatial_shape"])
        parser = ConfigParser(load_all(self.files))
        own: dict[str, Any] = {
            "bundle_root": literal_path(self.bundle.absolute()),
            "output_dir": literal_path(self.staging.resolve()),
            "device": f"$torch.device('{self.device}')",
            "progress": False,
            "dataset#data": [{}],  # replaced for each case
        }
        if self.weights is not None:
            own["checkpoint"] = literal_path(self.weights.absolute())
        parser.update({**self.settings, **own})
        try:
            refuse_resolved(parser)
            self._build(parser)
        except Exception as error:  # whatever a component of a bundle raises
            raise ValueError(
                f"the inference of '{self.bundle}' cannot be built: {cause_of(error)}"
            ) from error
        self._load_weights(parser)
        for other in self.others:
            self._refuse_another(other)

    def _refuse_another(self, other: BundlePipeline) -> None:
        """Refuse to average with the network of another task."""
        for what, one, two in (
            ("classes", self.class_names, other.class_names),
            ("channels", self.channels, other.channels),
        ):
            if one != two:
                raise ValueError(
                    f"'{self.bundle}' and '{other.bundle}' cannot be averaged: their {what} are "
                    f"{one} and {two}"
                )
        for pipeline in (self, other):
            if not (pipeline.has_probabilities and pipeline._inverted):
                raise ValueError(
                    f"'{pipeline.bundle}' cannot be averaged with others: its inference.yaml makes "
                    "no probabilities in the image's own grid (Invertd, then AsDiscreted)"
                )

    def _build(self, parser: ConfigParser) -> None:
        self._evaluator: Any = parser.get_parsed_content("evaluator")
        # Else Ignite would resume the run of a case that failed in place of the next one's.
        self._evaluator.interrupt_resume_enabled = False
        self._loader: Any = self._evaluator.data_loader
        amp = parser.get_parsed_content("amp") if "amp" in parser else False
        computed = autocast_dtype(amp, self.device) or torch.float32
        self.precision = str(computed).removeprefix("torch.")
        self.class_names = [str(name) for name in parser.get_parsed_content("class_names")]
        inferer = parser.get_parsed_content("inferer")
        self.axes = {self.network_dims + isinstance(inferer, SliceInferer)}
        preprocessing: Compose = parser.get_parsed_content("preprocessing")
        if any(isinstance(step, AddDepthd) for step in preprocessing.transforms):
            self.axes.add(2)
        postprocessing: Compose = parser.get_parsed_content("postprocessing")
        steps = list(postprocessing.transforms)
        self._saver = next(step.saver for step in steps if isinstance(step, SaveImaged))
        self._saver.set_options(write_kwargs={"verbose": False})
        self._tap, self.has_probabilities = _Tap(), False
        self._postprocessing, self._mean = postprocessing, _Mean()
        inversions = [i for i, step in enumerate(steps) if isinstance(step, Invertd)]
        self._inverted = steps[: inversions[-1] + 1] if inversions else []
        steps = [*self._inverted, self._mean, *steps[len(self._inverted) :]]
        for index, step in enumerate(steps):
            if isinstance(step, AsDiscreted) and "pred" in step.keys and any(step.argmax):
                postprocessing.transforms = (*steps[:index], self._tap, *steps[index:])
                self.has_probabilities = True
                break
        if self.writer is not None:
            postprocessing.transforms = tuple(
                self._write if isinstance(step, SaveImaged) else step
                for step in postprocessing.transforms
            )
        # Failures are this command's to report.
        self._evaluator.logger.setLevel(logging.CRITICAL)

    def _write(self, item: dict[str, Any]) -> dict[str, Any]:
        assert self.writer is not None
        return self.writer.write(item, self.staging, self._saver)

    def _load_weights(self, parser: ConfigParser) -> None:
        """Load the weights once, not before every case, and whatever device they were saved on."""
        listed: list[Any] = []
        for handler in parser.get_parsed_content("handlers"):
            listed += getattr(handler, "handlers", [handler])  # of a group
        loaders = [handler for handler in listed if isinstance(handler, CheckpointLoader)]
        if self.weights is not None and not loaders:
            raise ValueError(f"'{self.files[0]}' has no CheckpointLoader that loads the weights")
        for loader in loaders:
            weights = read_weights(loader.load_path)
            try:
                for network in loader.load_dict.values():
                    network.load_state_dict(weights)
            except RuntimeError as error:
                names = ", ".join(path.name for path in self.files)
                raise ValueError(
                    f"the weights '{self.weights}' do not fit the network of {names}; give the "
                    "folder of the run that trained them, or its settings, for example --features, "
                    "or a file that holds them with --config"
                ) from error
            self._evaluator.remove_event_handler(loader, Events.STARTED)

    def on(self, device: torch.device) -> BundlePipeline:
        """The same pipeline on another device."""
        return replace(self, device=device, others=[other.on(device) for other in self.others])

    def output_names(self, cases: Sequence[InputCase]) -> list[Path]:
        """Where the masks of images go, relative to the output folder.

        Raises:
            ValueError: two would have one name; names the images.
        """
        names = [case.folder / self._output_name(case) for case in cases]
        refuse_same_outputs(cases, names)
        return names

    def _output_name(self, case: InputCase) -> Path:
        if self.writer is not None:
            name = self.writer.output_name(case)
            return name.with_name(f"{name.name}{self._saver.output_ext}")
        subject = subject_name(str(case.image))
        name = Path(self._saver.folder_layout.filename(subject=subject, idx=None))
        return name.relative_to(self.staging.resolve())

    def prepare(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """Read and preprocess a case.

        Raises:
            CaseError: for another number of channels, or values that are not finite.
            Exception: whatever the bundle's transforms raise.
        """
        self._loader.dataset.data = [dict(case)]
        batch: dict[str, Any] = next(iter(self._loader))
        channels = batch["image"].shape[1]
        if channels != self.channels:
            raise CaseError(
                "wrong dimension",
                f"the image has {channels} channels, the bundle takes {self.channels}",
                "export the channels that it was trained on, one frame per file",
            )
        if not torch.isfinite(batch["image"]).all():
            problem = "the image has NaN or infinite voxels"
            raise CaseError("not finite", problem, "replace them, or leave the case out")
        if self.others:
            batch[_OTHERS] = [other.prepare(case) for other in self.others]
        return batch

    @torch.no_grad()
    def probabilities(self, batch: dict[str, Any]) -> NDArray[np.float32]:
        """Of each class in the image's own grid, before anything is chosen by them.

        Returns:
            (C, *spatial) float32, each voxel's sum 1.
        """
        whole, feed, state = self._postprocessing.transforms, [batch], self._evaluator.state
        self._postprocessing.transforms = tuple(self._inverted)
        self._evaluator.data_loader = feed
        try:
            self._evaluator.run()
            return _complete(state.output[0]["pred"])
        finally:
            self._postprocessing.transforms = whole
            feed.clear()
            state.batch = state.output = None

    @torch.no_grad()
    def predict(self, batch: dict[str, Any]) -> Prediction:
        """Segment a prepared case; the bundle's own output files are in ``staging`` then.

        Raises:
            OutputError: they cannot be written.
            Exception: whatever the bundle's components raise.
        """
        self._mean.others = [
            other.probabilities(prepared)
            for other, prepared in zip(self.others, batch.pop(_OTHERS, ()), strict=True)
        ]
        image = batch["image"]
        constant = bool(image.min() == image.max())
        feed, state = [batch], self._evaluator.state
        self._evaluator.data_loader = feed
        try:
            with _collected_warnings() as records:
                self._evaluator.run()
            mask, taken = state.output[0]["pred"], self._tap.probabilities
            return Prediction(
                mask=_plain(mask)[0].to(torch.uint8).numpy(),
                probabilities=None if taken is None else _complete(taken),
                meta=dict(mask.meta),
                spacing=spacing_mm(mask.meta, mask.ndim - 1),
                constant=constant,
                warnings=tuple(record.getMessage() for record in records),
                disagreement=self._mean.disagreement,
            )
        except Exception as error:
            reason = _writing_failed(error)
            if reason:
                raise OutputError(reason) from error
            raise
        finally:
            # The engine would keep this case until the next one is done.
            feed.clear()
            state.batch = state.output = self._tap.probabilities = None
            self._mean.others, self._mean.disagreement = [], None


def refuse_same_outputs(cases: Sequence[InputCase], outputs: Sequence[Path]) -> None:
    """Refuse images whose masks would have one name, or one too long for the file system.

    Raises:
        ValueError: naming the images.
    """
    # Some file systems do not tell capitals apart.
    groups: dict[str, list[InputCase]] = {}
    for case, output in zip(cases, outputs, strict=True):
        groups.setdefault(str(output).lower(), []).append(case)
    for case, output in zip(cases, outputs, strict=True):
        if len(os.fsencode(output.name)) > _LONGEST_NAME:
            raise ValueError(f"the name of '{case.image}' is too long for its mask's: shorten it")
    lines = []
    for name, group in groups.items():
        if len(group) > 1:
            images = ", ".join(f"'{case.image}'" for case in group)
            lines.append(f"  {name}: {images}")
    if lines:
        raise ValueError(
            "images that share a name would overwrite each other's masks; rename them, or predict "
            "their folders into different ones:\n" + "\n".join(lines)
        )


def choose_device(name: str | None) -> torch.device:
    """The device of that name; without one CUDA if available, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name} is not a device: give cpu, cuda or cuda:1") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
        raise ValueError(
            f"--device {name} is not available: PyTorch {torch.__version__} sees {seen} here; "
            "give --device cpu, or leave it out"
        )
    mps = ["mps"] if torch.backends.mps.is_available() else []
    if device.type not in ("cpu", "cuda", *mps):
        raise ValueError(f"--device {name} is not available here: give --device cpu")
    return device


@contextmanager
def _collected_warnings() -> Iterator[list[logging.LogRecord]]:
    """Warnings of this package's loggers, for the report instead of the screen."""
    handler, logger = BufferingHandler(sys.maxsize), logging.getLogger("mixseg")
    handler.setLevel(logging.WARNING)
    previous = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)
        logger.propagate = previous


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    return tensor.detach().cpu()


def _complete(probabilities: torch.Tensor) -> NDArray[np.float32]:
    """Probabilities whose sum is 1 everywhere.

    Where a crop was undone they fade to zero at its edge, which keeps their order, and are zero
    outside, which is background.
    """
    p = _plain(probabilities).float()
    total = p.sum(dim=0)
    off = (total - 1).abs() > _SUM_TOLERANCE
    if off.any():
        p = torch.where(off, p / total.clamp_min(1e-12), p)
        p[0] = torch.where(total <= _SUM_TOLERANCE, torch.ones_like(p[0]), p[0])
        p[1:] = torch.where(total <= _SUM_TOLERANCE, torch.zeros_like(p[1:]), p[1:])
    return np.asarray(p.numpy(), np.float32)


def _writing_failed(error: BaseException) -> str:
    """The reason where the bundle's writer could not write; empty for any other failure."""
    cause = root_cause(error)
    if isinstance(cause, OSError):
        return str(cause)
    # MONAI's SaveImage keeps of a writer's error only the text of its traceback.
    text = str(cause)
    if "cannot find a suitable writer" not in text:
        return ""
    line = [line for line in text.splitlines() if line.strip()][-1].strip()
    names = ("OSError", "PermissionError", "FileNotFoundError", "NotADirectoryError")
    return line.partition(": ")[2] if line.startswith(names) else ""
