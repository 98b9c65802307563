"""Inference on whole volumes: in few blended windows fitted to the scan, or in one pass."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer, sliding_window_inference
from monai.utils import BlendMode, ensure_tuple_rep
from torch import Tensor

from mixseg.engines.windows import plan_windows
from mixseg.files.memory import free_memory

_LOG = logging.getLogger(__name__)

#: Share of the free memory that a whole-volume pass may be expected to take.
_MEMORY_SHARE = 0.5

Predictor = Callable[[Tensor], tuple[Tensor, ...]]


class VolumeInferer(Inferer):
    """Logits of whole scans, from few blended windows or from one pass, mirrored on request.

    The windows are those of :func:`mixseg.engines.windows.plan_windows`: they grow up to
    ``stretch × roi_size`` where fewer of them then cover an axis, and are spread evenly. They are
    run by ``monai.inferers.sliding_window_inference``, their logits or probabilities averaged with
    equal weights or with Gaussian ones (σ an eighth of the window). The whole-volume pass pads
    each axis to a multiple of ``size_divisor``, and to ``roi_size`` where the scan is smaller,
    runs the network once and crops the result.

    Volumes of a batch are taken one by one, so a result does not depend on its batch. Outputs of
    the network are blended in float32 whatever they were computed in (MONAI alone would weight
    the bfloat16 output of an autocast region in bfloat16). Nothing is recorded for gradients.

    Args:
        roi_size: the window, one side per spatial axis of the network, e.g. (112, 112, 80); each
            a multiple of ``size_divisor``. The size of the training crop.
        overlap: of neighboring windows at the least, as a share of the window in [0, 1); one
            value or one per axis.
        sw_batch_size: windows, or mirrored scans, per forward pass at the most; fewer where they
            would not fit into memory. PyTorch's CPU convolutions take a single small image by a
            slow path: two windows at once are several times as fast as two in turn.
        mode: weights of a window, ``"constant"`` or ``"gaussian"``.
        whole_volume: True for one pass always, False for windows always, ``"auto"`` for one pass
            where memory allows. ``"auto"`` also continues with windows, and logs it, when the GPU
            runs out of memory during the pass.
        memory_gb: what one forward pass may take, in 10⁹ bytes; None is half of the device's free
            memory. What it needs is counted as ``voxels × bytes_per_voxel``, padding included.
        mirror_axes: spatial axes (0 is the first) along which the scan is mirrored as well. Every
            combination of them is one more scan to infer: three axes make eight. Take axes along
            which the network has seen mirrored crops.
        size_divisor: every side that the network sees is a multiple of this; one value or one per
            axis.
        bytes_per_voxel: peak memory of the network for one voxel of the image. The default is
            enough for float32 and 16 channels at full resolution; it grows with these channels.
        stretch: sides of a window at the most, in units of ``roi_size``; 1 for windows of
            ``roi_size`` alone. Instance and group norm take statistics of what the network sees:
            windows of the training crop's size fit such networks, larger ones do not.
        average: what overlapping windows average, ``"logits"`` or ``"probabilities"`` (UA-MT's
            procedure). A window that is sure outvotes the others by its logits, not by its
            probabilities. The result is logarithms of the latter.

    Raises:
        ValueError: on an option out of range.

    Examples:
        Blended windows of a network that doubles its input give the doubled scan, of any size:

        >>> inferer = VolumeInferer(roi_size=(16, 16), overlap=0.5, whole_volume=False)
        >>> scan = torch.rand(1, 2, 21, 37)
        >>> torch.allclose(inferer(scan, lambda window: 2 * window), 2 * scan, atol=1e-6)
        True
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        overlap: float | Sequence[float] = 0.5,
        sw_batch_size: int = 2,
        mode: str = "gaussian",
        whole_volume: bool | str = False,
        memory_gb: float | None = None,
        mirror_axes: Sequence[int] = (),
        size_divisor: int | Sequence[int] = 16,
        bytes_per_voxel: int = 1024,
        stretch: float = 1.5,
        average: str = "logits",
    ) -> None:
        super().__init__()
        self.roi_size = tuple(roi_size)
        rank = len(self.roi_size)
        self.overlap = ensure_tuple_rep(overlap, rank)
        self.sw_batch_size = sw_batch_size
        self.whole_volume = whole_volume
        self.memory_gb = memory_gb
        self.mirror_axes = tuple(mirror_axes)
        self.size_divisor = ensure_tuple_rep(size_divisor, rank)
        self.bytes_per_voxel = bytes_per_voxel
        self.stretch = stretch
        self.average = average
        if rank not in (2, 3) or min(self.roi_size) < 1:
            raise ValueError(f"roi_size needs two or three positive sides, got {self.roi_size}")
        if min(self.size_divisor) < 1:
            raise ValueError(f"size_divisor must be at least 1, got {size_divisor}")
        if any(side % d for side, d in zip(self.roi_size, self.size_divisor, strict=True)):
            raise ValueError(
                f"every side of roi_size must be a multiple of {size_divisor}, got {self.roi_size}"
            )
        if not all(0 <= share < 1 for share in self.overlap):
            raise ValueError(f"overlap must lie in [0, 1), got {overlap}")
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size must be at least 1, got {sw_batch_size}")
        if mode not in list(BlendMode):
            raise ValueError(f"mode must be 'gaussian' or 'constant', got {mode!r}")
        if not isinstance(whole_volume, bool) and whole_volume != "auto":
            raise ValueError(f"whole_volume must be 'auto', True or False, got {whole_volume!r}")
        if memory_gb is not None and memory_gb < 0:
            raise ValueError(f"memory_gb must not be negative, got {memory_gb}")
        if bytes_per_voxel < 1:
            raise ValueError(f"bytes_per_voxel must be positive, got {bytes_per_voxel}")
        if average not in ("logits", "probabilities"):
            raise ValueError(f"average must be 'logits' or 'probabilities', got {average!r}")
        if stretch < 1:
            raise ValueError(f"stretch must be at least 1, got {stretch}")
        if len(set(self.mirror_axes)) < len(self.mirror_axes) or not set(self.mirror_axes) <= set(
            range(rank)
        ):
            raise ValueError(
                f"mirror_axes must name different axes of {tuple(range(rank))}, "
                f"got {self.mirror_axes}"
            )
        self.mode = BlendMode(mode)
        self._too_large = math.inf  # voxels that a GPU had no memory for
        self._noted = False

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor | tuple[Tensor, ...]:
        """Logits of every volume.

        Args:
            inputs: (B, channels, H, W[, D]), float; a MetaTensor hands its metadata on.
            network: windows (n, channels, h, w[, d]) → logits (n, C, h, w[, d]), or a tuple of
                such logits (the two branches).
            args: passed to ``network``.
            kwargs: passed to ``network``.

        Returns:
            Logits (B, C, H, W[, D]) or a tuple of them, float32 (float64 for float64 inputs).
            With ``mirror_axes`` they are the logarithm of the mean of the passes' probabilities,
            so that their softmax is that mean.

        Raises:
            ValueError: for an image of another rank, an empty one, or a network whose output has
                another size than its input.
            TypeError: for a network that returns neither a tensor nor a tuple of tensors.
        """
        rank = len(self.roi_size)
        if inputs.ndim != rank + 2 or 0 in inputs.shape:
            axes = "H, W, D" if rank == 3 else "H, W"
            raise ValueError(
                f"windows of {self.roi_size} need images of shape (B, channels, {axes}), "
                f"got {tuple(inputs.shape)}"
            )
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if images.dtype != torch.float64:
            images = images.float()
        single = False

        def predict(image: Tensor) -> tuple[Tensor, ...]:
            nonlocal single
            output = network(image, *args, **kwargs)
            single = isinstance(output, Tensor)
            return _checked_logits((output,) if single else output, image)

        volumes = [self._all_mirrored(image[None], predict) for image in images]
        outputs = tuple(torch.cat(branch) for branch in zip(*volumes, strict=True))
        if isinstance(inputs, MetaTensor):
            outputs = tuple(MetaTensor(z).copy_meta_from(inputs, copy_attr=False) for z in outputs)
        return outputs[0] if single else outputs

    def _all_mirrored(self, image: Tensor, predict: Predictor) -> tuple[Tensor, ...]:
        if not self.mirror_axes:
            return self._logits(image, predict)
        total: list[Tensor] = []
        subsets = mirrorings(self.mirror_axes)
        # As many at once as windows are, so that eight need no more memory than these.
        for first in range(0, len(subsets), self.sw_batch_size):
            group = subsets[first : first + self.sw_batch_size]
            outputs = self._logits(torch.cat([image.flip(axes) for axes in group]), predict)
            for i, axes in enumerate(group):
                passed = [F.log_softmax(z[i : i + 1], dim=1).flip(axes) for z in outputs]
                if total:
                    passed = [torch.logaddexp(a, b) for a, b in zip(total, passed, strict=True)]
                total = passed
        return tuple(z - math.log(len(subsets)) for z in total)

    def _logits(self, image: Tensor, predict: Predictor) -> tuple[Tensor, ...]:
        """Logits of volumes of one size (n, channels, *spatial), n at most ``sw_batch_size``."""
        if self._in_one_pass(image):
            try:
                return self._whole(image, predict)
            except torch.OutOfMemoryError:
                if self.whole_volume is True:
                    raise
                self._too_large = min(self._too_large, self._padded_voxels(image))
            # Not in the handler, whose traceback would keep the activations alive.
            if image.device.type == "cuda":
                torch.cuda.empty_cache()
            _LOG.warning(
                "a scan of %s voxels does not fit on %s in one pass: windows are used",
                "×".join(map(str, image.shape[2:])),
                image.device,
            )
        plan = plan_windows(
            image.shape[2:], self.roi_size, self.overlap, self.size_divisor, self.stretch
        )
        probable = self.average == "probabilities" and math.prod(plan.counts) > 1
        outputs = sliding_window_inference(
            image,
            plan.window,
            self._batch_size(math.prod(plan.window), image.device),
            (lambda part: tuple(z.softmax(1) for z in predict(part))) if probable else predict,
            overlap=plan.overlaps,
            mode=self.mode,
        )
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if not probable:
            return outputs
        # A class that no window gives any probability must not become minus infinity.
        return tuple(p.clamp(min=torch.finfo(p.dtype).tiny).log() for p in outputs)

    def _batch_size(self, voxels: int, device: torch.device) -> int:
        """How many images of so many voxels are taken at once."""
        if self.sw_batch_size == 1:
            return 1
        fit = int(self._allowed(device) / (voxels * self.bytes_per_voxel))
        return max(1, min(self.sw_batch_size, fit))

    def _whole(self, image: Tensor, predict: Predictor) -> tuple[Tensor, ...]:
        sides = image.shape[2:]
        gaps = [to - side for side, to in zip(sides, self._padded_size(image), strict=True)]
        # Centered, as the padding of the windows is; F.pad counts from the last axis.
        pads = [n for gap in reversed(gaps) for n in (gap // 2, gap - gap // 2)]
        inside = [slice(None)] * 2
        inside += [slice(g // 2, g // 2 + side) for g, side in zip(gaps, sides, strict=True)]
        at_once = self._batch_size(self._padded_voxels(image), image.device)
        parts = [predict(part) for part in F.pad(image, pads).split(at_once)]
        return tuple(torch.cat(branch)[tuple(inside)] for branch in zip(*parts, strict=True))

    def _padded_size(self, image: Tensor) -> tuple[int, ...]:
        return tuple(
            max(roi, math.ceil(side / divisor) * divisor)
            for side, roi, divisor in zip(
                image.shape[2:], self.roi_size, self.size_divisor, strict=True
            )
        )

    def _padded_voxels(self, image: Tensor) -> int:
        return math.prod(self._padded_size(image))

    def _in_one_pass(self, image: Tensor) -> bool:
        if isinstance(self.whole_volume, bool):
            return self.whole_volume
        voxels = self._padded_voxels(image)
        if voxels >= self._too_large:
            return False
        allowed = self._allowed(image.device)
        needed = voxels * self.bytes_per_voxel
        if needed > allowed and not self._noted:
            self._noted = True
            _LOG.info(
                "windows are used where a scan in one pass needs more than %.1f GB: this one of "
                "%s voxels needs about %.1f GB",
                allowed / 1e9,
                "×".join(map(str, image.shape[2:])),
                needed / 1e9,
            )
        return needed <= allowed

    def _allowed(self, device: torch.device) -> float:
        """Bytes that a forward pass may take."""
        if self.memory_gb is not None:
            return self.memory_gb * 1e9
        return _MEMORY_SHARE * available_memory(device)


def mirrorings(axes: Sequence[int]) -> list[list[int]]:
    """Every combination of spatial axes, as axes of a batch; the first one is empty."""
    counts = range(len(axes) + 1)
    return [[a + 2 for a in some] for n in counts for some in itertools.combinations(axes, n)]


def available_memory(device: torch.device | str) -> int:
    """Bytes that a process can still take on a device; 0 where the system does not tell.

    On CUDA: free memory and what PyTorch holds in reserve. Elsewhere: see
    :func:`mixseg.files.memory.free_memory`.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserve)
    return free_memory()


def _checked_logits(outputs: Any, image: Tensor) -> tuple[Tensor, ...]:
    """The network's outputs in the image's precision, each of the image's size."""
    if not isinstance(outputs, tuple | list) or not all(isinstance(z, Tensor) for z in outputs):
        raise TypeError(
            f"the network must return a tensor or a tuple of tensors, got {type(outputs).__name__}"
        )
    for z in outputs:
        if z.shape[2:] != image.shape[2:]:
            raise ValueError(
                f"the network returns {tuple(z.shape[2:])} for an image of "
                f"{tuple(image.shape[2:])}: logits must have the size of the image"
            )
    return tuple(z.to(image.dtype) for z in outputs)
