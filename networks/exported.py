"""An exported model file in place of the network, and how closely it computes the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor, nn

_LOG = logging.getLogger(__name__)


class ExportedNetwork(nn.Module):
    """A network read from a TorchScript (``.ts``) or ONNX (``.onnx``) file.

    It stands where the bundle's network does; the file holds the weights. ``monai.bundle
    ckpt_export`` and ``mixseg export`` write such files. ONNX files need ONNX Runtime (the extra
    ``mixseg[onnx]``), which runs as many threads as PyTorch does.

    Args:
        path: the file, exported with one branch.
        device: where it runs, e.g. ``"cuda"``. An ONNX file runs on the CPU, and that is logged,
            where the installed ONNX Runtime has no CUDA.
        branch: the branch that was exported.

    Shapes:
        image (B, channels, *spatial) float32, of any device and size that the file takes →
        logits (B, C, *spatial) float32 on the image's device.

    Raises:
        FileNotFoundError: when there is no such file.
        ImportError: for an ONNX file without ONNX Runtime.
        ValueError: for a file of another kind, one that cannot be read, or one that does not
            take an image and return logits.
    """

    def __init__(
        self, path: str | Path, device: str | torch.device = "cpu", branch: str = "student"
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.device = torch.device(device)
        self.branch, self.branch_names = branch, (branch,)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"there is no exported network '{self.path}'; mixseg export makes one"
            )
        if self.path.suffix == ".ts":
            self._run = self._run_script
            self.script = _read_script(self.path, self.device)
        elif self.path.suffix == ".onnx":
            self._run = self._run_session
            self.session = _read_session(self.path, self.device)
        else:
            raise ValueError(f"an exported network ends in .ts or .onnx, got '{self.path}'")

    def forward(self, image: Tensor, branch: str | None = None) -> Tensor:
        """Logits of the exported branch.

        Args:
            image: (B, channels, *spatial).
            branch: None, or the branch that the file holds.

        Raises:
            ValueError: for another branch, or an image of a size that the file does not take.
        """
        if branch not in (None, self.branch):
            raise ValueError(f"'{self.path}' holds the branch {self.branch!r}, not {branch!r}")
        return self._run(image)

    def _run_script(self, image: Tensor) -> Tensor:
        logits = self.script(image.to(self.device))
        if not isinstance(logits, Tensor):
            raise ValueError(f"'{self.path}' returns several outputs; export it with one branch")
        return logits.to(image.device)

    def _run_session(self, image: Tensor) -> Tensor:
        wanted = self.session.get_inputs()[0]
        fits = len(wanted.shape) == image.ndim and all(
            not isinstance(side, int) or side == found
            for side, found in zip(wanted.shape, image.shape, strict=True)
        )
        if not fits:
            sides = ", ".join(map(str, wanted.shape))
            raise ValueError(
                f"'{self.path}' takes images of shape ({sides}), got {tuple(image.shape)}"
            )
        array = image.detach().cpu().contiguous().float().numpy()
        (logits,) = self.session.run(None, {wanted.name: array})
        return torch.from_numpy(logits).to(image.device)


def _read_script(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be read as TorchScript: {_first_line(error)}") from error


def _read_session(path: Path, device: torch.device) -> Any:
    runtime, installed = optional_import("onnxruntime")
    if not installed:
        raise ImportError(f"'{path}' needs ONNX Runtime: pip install 'mixseg[onnx]'")
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" in runtime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        else:
            _LOG.warning("this ONNX Runtime has no CUDA: '%s' runs on the CPU", path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions have no common class but this
        raise ValueError(f"'{path}' cannot be read as ONNX: {_first_line(error)}") from error
    counts = len(session.get_inputs()), len(session.get_outputs())
    if counts != (1, 1):
        raise ValueError(
            f"'{path}' has {counts[0]} inputs and {counts[1]} outputs; a network that is exported "
            "with one branch has one of each"
        )
    return session


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def onnx_options(spatial_dims: int) -> dict[str, Any]:
    """``converter_kwargs`` with which ``monai.bundle onnx_export`` leaves the sizes free.

    Its own defaults fix the batch and every side to those of the example, and let the exporter
    leave a copy of the weights in the temporary folder. They need ``use_trace=True``, an example
    with a batch of 2 or more, and sides that differ, each at least twice the network's divisor:
    the exporter takes sizes of one for constants.
    """
    axes = {0: "batch"} | dict(enumerate(("height", "width", "depth")[:spatial_dims], start=2))
    return {
        "input_names": ["image"],
        "output_names": ["pred"],
        "dynamo": True,
        "dynamic_shapes": [axes],
        "external_data": False,
        "verbose": False,
    }


@torch.no_grad()
def max_difference(
    network: nn.Module, exported: nn.Module, shapes: Sequence[Sequence[int]], seed: int = 0
) -> tuple[float, int, int]:
    """Largest difference of the outputs of two networks on standard normal images.

    Args:
        network: the original, in evaluation mode, on the CPU, returning logits of one branch.
        exported: the other one.
        shapes: of the images, (B, channels, *spatial).
        seed: of the images.

    Returns:
        The largest absolute difference of the logits, the number of voxels whose most probable
        class differs, and the number of voxels.
    """
    generator = torch.Generator().manual_seed(seed)
    difference, flipped, voxels = 0.0, 0, 0
    for shape in shapes:
        image = torch.randn(*shape, generator=generator)
        a, b = network(image), exported(image)
        difference = max(difference, float((a - b).abs().max()))
        flipped += int((a.argmax(dim=1) != b.argmax(dim=1)).sum())
        voxels += a[:, 0].numel()
    return difference, flipped, voxels
