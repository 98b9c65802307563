"""The protocol between the engine and a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mixseg.losses import (
    dice_cross_entropy,
    image_cross_entropy,
    image_dice_cross_entropy,
    partial_cross_entropy,
)

#: One forwarded batch a supervision kind: ``{"full": {"image": …, "label": …}, "partial": …}``.
Batch = Mapping[str, Mapping[str, Tensor]]
#: What the network returned for each kind: logits, or a tuple such as (teacher, student).
Outputs = Mapping[str, Tensor | tuple[Tensor, ...]]
#: ``"network"``, the one that the method predicts with, and those of :attr:`Objective.networks`.
Networks = Mapping[str, nn.Module]


@dataclass(frozen=True)
class NetworkSpec:
    """A network that a method needs beside the one it predicts with.

    Attributes:
        average_of: None for a peer: the same architecture with weights of its own, trained.
            Otherwise the name of the network whose moving average it is; it is never trained.
        decay: largest decay of the average. At count t it is min(1 - 1/(t + 1), ``decay``), so
            the first update copies (UA-MT and SSCO).
        per: what t counts from 0, ``"iteration"`` or ``"epoch"``; updates follow every step.
        buffers: take the batch statistics from the averaged network, too; otherwise they are those
            of the average's own passes, which see images of its own.

    Raises:
        ValueError: decay outside [0, 1), or an unknown ``per``.
    """

    average_of: str | None = None
    decay: float = 0.99
    per: Literal["iteration", "epoch"] = "iteration"
    buffers: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")
        if self.per not in ("iteration", "epoch"):
            raise ValueError(f"per must be iteration or epoch, got {self.per!r}")


@dataclass(frozen=True, eq=False)
class TurnSpec:
    """A network of its own architecture, which trains in turn with the one that predicts.

    In each iteration the engine first computes the gradient of :meth:`Objective.forward` with this
    network frozen, then that of :meth:`Objective.turn` with every other network frozen, and then
    both optimizers step. Precision, gradient scaling, clipping and accumulation are the training's.

    Attributes:
        network: initialized; the engine moves it to the device of the method's network.
        optimizer: takes its parameters; a bundle gives torch's class with ``_mode_: callable``.
        lr_scheduler: takes that optimizer and is stepped after every iteration; None keeps the
            rate.
    """

    network: nn.Module
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None


class Objective(nn.Module, ABC):
    """A method: which branch sees which supervision kind, the loss terms and their weights.

    The engine forwards every kind in :attr:`branches` through the network with the branch named
    there, calls the objective, sums ``weight × term`` and logs each term by its name. It knows
    no method by name.

    Weights are plain float attributes named as in the papers (``lambda_w``, …), so that the
    command line sets them and :class:`mixseg.handlers.WeightRamps` moves them while training.
    """

    @property
    @abstractmethod
    def branches(self) -> dict[str, str]:
        """Supervision kind → branch to compute; kinds that no active term needs are absent."""

    @property
    @abstractmethod
    def trained_branches(self) -> tuple[str, ...]:
        """Branches that some active term trains; the others keep their initial weights."""

    @property
    @abstractmethod
    def inference_branch(self) -> str:
        """The branch that the method predicts with, by which checkpoints are selected."""

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Name of each active term → its weight now."""

    @property
    def networks(self) -> Mapping[str, NetworkSpec | TurnSpec]:
        """Name → network that the method needs beside its own; averages after what they follow.

        :class:`mixseg.engines.NetworkSet` builds, updates and stores them. Heads that need no
        network are plain submodules of the objective.
        """
        return {}

    def turn(
        self, name: str, outputs: Outputs, batch: Batch, networks: Networks
    ) -> dict[str, Tensor]:
        """Name of each term → its value, a scalar; their sum is what the network learns from.

        Args:
            name: of the network whose turn it is, one of :attr:`networks` with a
                :class:`TurnSpec`.
            outputs: those that :meth:`forward` was given, detached.
            batch: as there.
            networks: as there; only ``networks[name]`` takes a gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} has no network {name!r} to train")

    @abstractmethod
    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Name of each active term → its unweighted value, a scalar.

        Args:
            outputs: logits (B, C, *spatial) a kind, a pair of them where the branch is both, or
                what the network returns for a branch name of its own.
            batch: per kind ``image`` (B, channels, *spatial) and, but for the kind ``none``,
                ``label`` (B, 1, *spatial), labels 0…C−1 and C = unlabeled.
            networks: for passes that the engine has not made; each takes an image and ``branch=``.
        """


class SingleBranchObjective(Objective):
    """A method whose networks have one branch, which is called ``main``.

    With several networks it is that of the first one, the network itself.

    Args:
        supervised_loss: see :func:`supervised_term`; ``_supervised`` is that function.
        **weights: not negative, and attributes of these names.

    Raises:
        ValueError: on a negative weight or an unknown loss.
    """

    supervised_loss: str | None

    def __init__(self, supervised_loss: str = "cross_entropy", **weights: float) -> None:
        super().__init__()
        refuse_negative(**weights)
        for name, weight in weights.items():
            setattr(self, name, float(weight))
        self.supervised_loss = supervised_loss
        self._supervised = supervised_term(supervised_loss)

    @property
    def trained_branches(self) -> tuple[str, ...]:
        """The only one."""
        return ("main",)

    @property
    def inference_branch(self) -> str:
        """The only one, of the network itself and not of an average of it."""
        return "main"


def active(**weights: float) -> dict[str, float]:
    """Terms whose weight is not 0; the others are not computed."""
    return {name: weight for name, weight in weights.items() if weight > 0}


def refuse_negative(**weights: float) -> None:
    """Raise ValueError, naming it, for a weight that is negative or no number."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must not be negative, got {weight}")


#: Name → loss of a batch, and of each of its images.
_SUPERVISED_LOSSES = {
    "cross_entropy": (partial_cross_entropy, image_cross_entropy),
    "dice_cross_entropy": (dice_cross_entropy, image_dice_cross_entropy),
}


def supervised_term(name: str, *, by_image: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss with which a method learns from labels: its setting ``supervised_loss``.

    Terms keep their names (``ce_full``, …) whichever it is.

    Args:
        name: ``"cross_entropy"`` over the labeled voxels, which most papers have, or
            ``"dice_cross_entropy"``, the cross-entropy + soft Dice of
            :func:`mixseg.losses.dice_cross_entropy`.
        by_image: a value for each image instead of one for the batch, for methods that weight
            images.

    Returns:
        A function of logits (B, C, *spatial) and label (B, 1, *spatial), 0…C−1 and C = unlabeled,
        that returns a scalar, or (B,) with ``by_image``.

    Raises:
        ValueError: on another name.

    Examples:
        >>> supervised_term("dice_cross_entropy").__name__
        'dice_cross_entropy'
        >>> supervised_term("cross_entropy", by_image=True).__name__
        'image_cross_entropy'
    """
    if name not in _SUPERVISED_LOSSES:
        raise ValueError(
            f"supervised_loss must be one of {', '.join(_SUPERVISED_LOSSES)}, got {name!r}"
        )
    return _SUPERVISED_LOSSES[name][by_image]
