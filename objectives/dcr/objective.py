"""DCR: two networks that learn from wrong masks, each weighted, and from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from mixseg.losses import image_cross_entropy, kl_divergence
from mixseg.objectives.base import (
    Batch,
    Networks,
    NetworkSpec,
    Outputs,
    SingleBranchObjective,
    active,
    supervised_term,
)
from mixseg.objectives.dcr.weights import InstanceWeights

_MIXINGS = ("foreground", "cutmix")
_REGULARIZATIONS = ("ce", "kl")
_KINDS = ("full", "partial", "noisy")


class DynamicCoRegularization(SingleBranchObjective):
    """Dynamic co-regularization with dynamic instance indicators (DII + DCR).

    Pan et al., 'Label-efficient hybrid-supervised learning for medical image segmentation', AAAI
    2022. Pairs of a primary image i and an auxiliary image j; eq. 7 is the mean over the pairs of

        γ_i ℓ_i + γ_j ℓ_j + λ ½ (γ_i + γ_j) r_ij.

    ============== ============= ==============================================================
    term           images        value
    ============== ============= ==============================================================
    ce_primary     ``primary``   γ_i × cross-entropy of the network with the mask
    ce_auxiliary   ``auxiliary`` γ_j × cross-entropy of the other network with the mask
    regularization both, mixed   ½ (γ_i + γ_j) × cross-entropy of each with the other's mask
    ============== ============= ==============================================================

    The groups are those of :class:`mixseg.objectives.dcr.TutorialDataLoader`. The mixed image of a
    pair is x_i where its mask shows one class, drawn from its annotated foreground classes, and x_j
    elsewhere (eq. 4). Each network predicts both images of the pair, its argmax is mixed in the
    same way (eq. 6), and the other network learns that for the mixed image (eq. 5).

    γ is 1 for items with full masks. For the others it is learned by
    :class:`mixseg.objectives.dcr.InstanceIndicators`, which compares gradients every so many
    iterations and calls :meth:`step_indicators`.

    Where the paper is open: an image i without an annotated foreground class has nothing to paste,
    so that x_m is x_j (eq. 4 with B = 0). The pseudo-masks of x_i in the network and x_j in the
    other come from the passes of the supervised terms; the other two are made without a graph, in
    training mode, too. With ``regularization="kl"`` the other's softmax, mixed in the same way, is
    the fixed first argument of a Kullback-Leibler divergence, in place of its argmax.

    Args:
        supervision: kind of each item of the dataset, ``"full"``, ``"partial"`` or ``"noisy"``;
            a batch's ``index`` counts in it.
        lambda_reg: λ (4).
        peer: False trains one network, on ``primary`` alone and without ``regularization``.
        indicators: False leaves every γ at 1.
        mixing: ``"foreground"`` (eq. 4), or ``"cutmix"``: one random box a pair, whose share of
            the image is uniform on [0, 1] before it is cut at the border (Yun et al., ICCV 2019).
        regularization: ``"ce"`` (eq. 5) or ``"kl"``.
        indicator_lr: rate of Adam on γ (0.1).
        indicator_init: γ at the start (0.5).
        supervised_loss: ℓ of ``ce_primary`` and ``ce_auxiliary``, ``"cross_entropy"`` (paper) or
            ``"dice_cross_entropy"``, see :func:`mixseg.objectives.supervised_term`. γ weights
            images, so that the Dice is that of each image by itself
            (:func:`mixseg.losses.image_dice_cross_entropy`) and not of the batch.

    Raises:
        ValueError: on an option out of range, a kind without labels, or indicators without a full
            mask to guide them; while training, where a batch has not both streams.

    Examples:
        >>> method = DynamicCoRegularization(["full", "noisy", "noisy"])
        >>> method.weights
        {'ce_primary': 1.0, 'ce_auxiliary': 1.0, 'regularization': 4.0}
        >>> method.gamma.tolist()
        [1.0, 0.5, 0.5]
        >>> method.networks["auxiliary"].average_of is None  # a peer, trained
        True
        >>> alone = DynamicCoRegularization(["full", "noisy"], peer=False)  # indicators alone
        >>> alone.weights, alone.networks
        ({'ce_primary': 1.0}, {})
    """

    lambda_reg: float

    def __init__(
        self,
        supervision: Sequence[str],
        lambda_reg: float = 4.0,
        *,
        peer: bool = True,
        indicators: bool = True,
        mixing: str = "foreground",
        regularization: str = "ce",
        indicator_lr: float = 0.1,
        indicator_init: float = 0.5,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(supervised_loss, lambda_reg=lambda_reg)
        if other := sorted(set(supervision) - set(_KINDS)):
            raise ValueError(
                f"items must be {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, got {', '.join(other)}"
            )
        if indicators and "full" not in supervision:
            raise ValueError(
                "indicators are guided by full masks, and there is none: raise num_full, or set "
                "indicators to false"
            )
        for name, value, known in (
            ("mixing", mixing, _MIXINGS),
            ("regularization", regularization, _REGULARIZATIONS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self._supervised = supervised_term(supervised_loss, by_image=True)
        self.peer = peer
        self.mixing = mixing
        self.regularization = regularization
        self.instances = InstanceWeights(
            [indicators and kind != "full" for kind in supervision],
            lr=indicator_lr,
            init=indicator_init,
        )

    @property
    def branches(self) -> dict[str, str]:
        """The network's pass over the primary images; this objective makes all others."""
        return {"primary": "main"}

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        if not self.peer:
            return {"ce_primary": 1.0}
        return active(ce_primary=1.0, ce_auxiliary=1.0, regularization=self.lambda_reg)

    @property
    def networks(self) -> dict[str, NetworkSpec]:
        """The peer ``auxiliary``, where there is one."""
        return {"auxiliary": NetworkSpec()} if self.peer else {}

    @property
    def gamma(self) -> Tensor:
        """(N,) weight of each item of the dataset, in [0, 1]."""
        return self.instances.gamma

    @property
    def learned(self) -> Tensor:
        """(N,) bool: whose weight is learned."""
        return self.instances.learned

    def step_indicators(self, agreement: Tensor) -> None:
        """Move γ by g_S · g_k (M,) of the learned items, see :meth:`InstanceWeights.step`."""
        self.instances.step(agreement)

    def sampling_weights(self) -> Tensor:
        """(N,) weights by which the primary images are drawn: γ itself."""
        return self.gamma

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        first = batch["primary"]
        gamma_i, own_i = self.instances(first["index"]), cast(Tensor, outputs["primary"])
        terms = {"ce_primary": (gamma_i * self._supervised(own_i, first["label"])).mean()}
        if not self.peer:
            return terms
        if "auxiliary" not in batch or len(batch["auxiliary"]["image"]) != len(first["image"]):
            raise ValueError(
                "two networks need a primary and an auxiliary stream of one length: set auxiliary "
                "of the TutorialDataLoader to true, or peer to false"
            )
        second = batch["auxiliary"]
        gamma_j = self.instances(second["index"])
        peer_j: Tensor = networks["auxiliary"](second["image"], branch="main")
        terms["ce_auxiliary"] = (gamma_j * self._supervised(peer_j, second["label"])).mean()
        if "regularization" in self.weights:
            pasted = self._pasted(first["label"], own_i.shape[1])
            mixed = torch.where(pasted, first["image"], second["image"])
            with torch.no_grad():
                own_j = networks["network"](second["image"], branch="main")
                peer_i = networks["auxiliary"](first["image"], branch="main")
                own_target = self._target(pasted, own_i, own_j)
                peer_target = self._target(pasted, peer_i, peer_j)
            own: Tensor = networks["network"](mixed, branch="main")
            peer: Tensor = networks["auxiliary"](mixed, branch="main")
            r = self._distance(own, peer_target) + self._distance(peer, own_target)
            terms["regularization"] = (0.5 * (gamma_i + gamma_j) * r).mean()
        return terms

    def _pasted(self, label: Tensor, num_classes: int) -> Tensor:
        """(B, 1, *spatial) bool: where the mixed image is the primary one."""
        if self.mixing == "cutmix":
            return draw_boxes(label)
        return draw_regions(label, num_classes)

    def _target(self, pasted: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
        """Mixed argmax (B, 1, *spatial), or mixed log-probabilities (B, C, *spatial)."""
        if self.regularization == "ce":
            inside, outside = (z.argmax(dim=1, keepdim=True) for z in (inside, outside))
        else:
            inside, outside = map(_log_softmax, (inside, outside))
        return torch.where(pasted, inside, outside)

    def _distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B,) mean over the voxels of each image."""
        if self.regularization == "ce":
            return image_cross_entropy(logits, target)
        return kl_divergence(target, _log_softmax(logits)).flatten(1).mean(dim=1)


def _log_softmax(logits: Tensor) -> Tensor:
    """In float32 at least: inside and outside autocast the term means the same."""
    return logits.log_softmax(dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))


# Where an image is pasted onto another. Draws come from torch's global generator on the CPU: a
# resumed run restores it, and they depend neither on the device nor, in number, on the labels.


def draw_regions(label: Tensor, num_classes: int) -> Tensor:
    """(B, 1, *spatial) bool: one annotated foreground class of each image; none where it has none.

    Args:
        label: (B, 1, *spatial), 0…C−1 and C = unlabeled.
        num_classes: C.

    Examples:
        >>> label = torch.tensor([[[0, 1, 2]], [[0, 0, 3]]])  # 3 is unlabeled, of C = 3
        >>> draw_regions(torch.where(label == 2, 0, label), 3).int().tolist()
        [[[0, 1, 0]], [[0, 0, 0]]]
    """
    draws = torch.rand(len(label), num_classes - 1).to(label.device)
    classes = torch.arange(1, num_classes, device=label.device)
    there = (label.flatten(1).unsqueeze(1) == classes[:, None]).any(dim=2)
    chosen = 1 + torch.where(there, draws, -1).argmax(dim=1)
    # Without any the argmax is class 1, which the label does not hold.
    return label == chosen.view(-1, *[1] * (label.ndim - 1))


def draw_boxes(label: Tensor) -> Tensor:
    """(B, 1, *spatial) bool: a random box of each image, as CutMix cuts it.

    Its share of the image is 1 - ν with ν from Beta(1, 1), its center any voxel, and what lies
    beyond the border is cut off.
    """
    size = label.shape[2:]
    share = torch.rand(len(label))
    centers = torch.rand(len(label), len(size))
    inside = torch.ones_like(label, dtype=torch.bool)
    for axis, length in enumerate(size):
        half = (length * share ** (1 / len(size))).floor() // 2
        center = (centers[:, axis] * length).floor()
        shape = (-1, *[1] * (axis + 1), length, *[1] * (len(size) - axis - 1))
        place = torch.arange(length)
        along = (place >= (center - half)[:, None]) & (place < (center + half)[:, None])
        inside &= along.reshape(shape).to(label.device)
    return inside
