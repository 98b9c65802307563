"""GLMI: features that keep what a picture shows, whole and in places, when it is moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mixseg.losses import negative_mutual_information, transformation_consistency
from mixseg.networks import GlobalProjectionHead, LocalProjectionHead
from mixseg.networks.features import forward_with_features
from mixseg.objectives.base import (
    Batch,
    Networks,
    Outputs,
    SingleBranchObjective,
    active,
)
from mixseg.objectives.motion import RandomMotion


class GLMI(SingleBranchObjective):
    """Global and local mutual information, L = L_s + λ_global L_g + λ_local L_l + λ_con L_c.

    Peng et al., 'Boosting semi-supervised image segmentation with global and local mutual
    information regularization', MELBA 2021, and its code; the journal version of ConfKD weights
    its terms one by one (App. B.2).

    =========== ======== ==================================================================
    term        images   value
    =========== ======== ==================================================================
    ce_full     ``full`` cross-entropy
    global      ``none`` minus the information that clusters of x and T x share, whole images
    local       ``none`` minus that of T f(x) and f(T x), voxels and their neighbors
    consistency ``none`` mean squared difference of softmax f(T x) and T softmax f(x), fixed
    =========== ======== ==================================================================

    T is drawn anew for each sample and step (:class:`mixseg.objectives.motion.RandomMotion`):
    flips along the first two spatial axes and a rotation in their plane, in 3D the third axis
    stays. x and T x are one batch of one forward pass. What a rotation brings in from outside
    takes no part in ``local`` and ``consistency``.

    Heads with several sub-heads project features of the network to soft clusters. They are parts
    of this objective, trained and stored with it, and no longer needed for predicting: Table 8's
    31,042,434 parameters are the network's alone.

    Each layer's information is multiplied by its importance divided by the sum of all, as in the
    code: with 1, ½, ½ the global layer counts one half and each local one a quarter. The journal
    does not say whether its λ of global and local come on top of that; doubling both is the other
    reading.

    Differences from the code: its T has flips alone (``max_angle=0``), rotations there are data
    augmentation; its joint distributions of maps have the smallest entry subtracted; labeled and
    unlabeled images share a forward pass.

    Args:
        lambda_global: weight of ``global`` (1).
        lambda_local: weight of ``local`` (0.1).
        lambda_con: weight of ``consistency`` (10).
        layers: name of a module of the network → its channels: the one for the global term (the
            deepest of the encoder), then those for the local term (the last two of the decoder,
            the one at half resolution first).
        clusters: K >= 2 of each sub-head.
        heads: sub-heads of each layer.
        importance: of each layer, not negative.
        padding: largest displacement of each local layer, in voxels of its map.
        spatial_dims: 2 or 3.
        max_angle: of the rotation, in degrees within [0, 180]; 0 for none.
        flip_probability: of each flip; the authors' is 0.8.
        supervised_loss: of ``ce_full``, ``"cross_entropy"`` (paper) or
            ``"dice_cross_entropy"``, see :func:`mixseg.objectives.supervised_term`.

    Kinds that a batch lacks are left out.

    Raises:
        ValueError: on an option out of range, or lists of other lengths than ``layers`` asks for;
            while training, where a module is missing or has other channels.

    Examples:
        >>> method = GLMI(layers={"encoder.center": 16, "main.blocks.1": 4}, importance=[1, 1],
        ...               padding=[1])
        >>> method.weights
        {'ce_full': 1.0, 'global': 1.0, 'local': 0.1, 'consistency': 10.0}
        >>> sum(p.numel() for p in method.parameters())  # 5 · 20 · (16 + 1) + 5 · 20 · (4 + 1)
        2200
    """

    lambda_global: float
    lambda_local: float
    lambda_con: float

    def __init__(
        self,
        lambda_global: float = 1.0,
        lambda_local: float = 0.1,
        lambda_con: float = 10.0,
        *,
        layers: Mapping[str, int],
        clusters: int = 20,
        heads: int = 5,
        importance: Sequence[float] = (1.0, 0.5, 0.5),
        padding: Sequence[int] = (1, 3),
        spatial_dims: int = 2,
        max_angle: float = 45.0,
        flip_probability: float = 0.8,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(
            supervised_loss,
            lambda_global=lambda_global,
            lambda_local=lambda_local,
            lambda_con=lambda_con,
        )
        if len(layers) < 2:
            raise ValueError(
                f"layers needs a global layer and at least one local one, got {dict(layers)}"
            )
        for name, given, number in (
            ("importance", importance, len(layers)),
            ("padding", padding, len(layers) - 1),
        ):
            if len(given) != number:
                raise ValueError(
                    f"{name} needs {number} entries for {len(layers)} layers, the first of them "
                    f"global, got {list(given)}"
                )
        if not min(importance) >= 0 or not sum(importance) > 0:
            raise ValueError(
                f"importance must not be negative and not 0 altogether, got {list(importance)}"
            )
        if min(padding) < 0:
            raise ValueError(f"padding must not be negative, got {list(padding)}")
        if not 0 <= max_angle <= 180:
            raise ValueError(f"max_angle must lie in [0, 180] degrees, got {max_angle}")
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability must lie in [0, 1], got {flip_probability}")
        self.layers = tuple(layers)
        self.shares = tuple(value / sum(importance) for value in importance)
        self.padding = tuple(padding)
        self.max_angle = float(max_angle)
        self.flip_probability = float(flip_probability)
        whole, *local = layers.values()
        self.global_head = GlobalProjectionHead(whole, clusters, heads)
        self.local_heads = nn.ModuleList(
            LocalProjectionHead(channels, clusters, heads, spatial_dims=spatial_dims)
            for channels in local
        )

    @property
    def branches(self) -> dict[str, str]:
        """Full masks; unlabeled images pass together with their transforms, by this objective."""
        return {"full": "main"}

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        shares = {"global": self.lambda_global, "local": self.lambda_local}
        return active(ce_full=1.0, **shares, consistency=self.lambda_con)

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        active = self.weights
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            logits = cast(Tensor, outputs["full"])
            terms["ce_full"] = self._supervised(logits, batch["full"]["label"])
        if "none" not in batch or active.keys() == {"ce_full"}:
            return terms
        image = batch["none"]["image"]
        motion = RandomMotion(len(image), self.max_angle, self.flip_probability)
        read = [
            name for i, name in enumerate(self.layers) if ("local" if i else "global") in active
        ]
        logits, features = forward_with_features(
            networks["network"], read, torch.cat([image, motion(image)]), branch="main"
        )
        if "global" in active:
            terms["global"] = self._global(features[self.layers[0]])
        if "local" in active:
            terms["local"] = self._local([features[name] for name in self.layers[1:]], motion)
        if "consistency" in active:
            plain, moved = logits.chunk(2)
            terms["consistency"] = transformation_consistency(
                moved, plain, motion, mask=motion.inside(moved)
            )
        return terms

    def _global(self, features: Tensor) -> Tensor:
        """Importance × minus the information of whole images, features (2B, channels, *spatial)."""
        plain, moved = zip(*(z.chunk(2) for z in self.global_head(features)), strict=True)
        return self.shares[0] * negative_mutual_information(plain, moved)

    def _local(self, layers: Sequence[Tensor], motion: RandomMotion) -> Tensor:
        """Σ importance × minus the information of voxels, features (2B, channels, *spatial)."""
        values = []
        rows = zip(self.local_heads, layers, self.shares[1:], self.padding, strict=True)
        for head, features, share, padding in rows:
            plain, moved = features.chunk(2)
            inside = motion.inside(moved)
            assignments = head(torch.cat([motion(plain), moved]))
            if inside is not None:
                # Voxels that belong to no cluster drop out of the joint distribution.
                inside = inside.repeat(2, *[1] * (inside.ndim - 1))
                assignments = [z * inside for z in assignments]
            ones, others = zip(*(z.chunk(2) for z in assignments), strict=True)
            values.append(share * negative_mutual_information(ones, others, padding=padding))
        return torch.stack(values).sum()
