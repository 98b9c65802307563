"""Dice + cross-entropy as the supervised and weak terms of every method, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.losses import sample_logits
from mixseg.networks import DualBranchDynUNet, MeanVarianceNetwork
from mixseg.objectives import (
    GLMI,
    SSCO,
    UAMT,
    ConfKD,
    DynamicCoRegularization,
    EntropyMinimization,
    FickleNet,
    MacroMicro,
    Objective,
    SelfCorrecting,
    supervised_term,
)

CLASSES = 3
SIZE = (8, 8)
GAMMA = [1.0, 0.25, 0.75]
LAYERS = {"encoder.blocks.2": 4, "main.blocks.1": 4}


def make_network(in_channels: int = 1, classes: int = CLASSES, branches: int = 1) -> Any:
    return DualBranchDynUNet(2, in_channels, classes, (4, 4, 4), res_block=False, branches=branches)


def heads_network() -> MeanVarianceNetwork:
    encoder = [f"encoder.blocks.{i}" for i in range(3)]
    backbone = make_network(classes=2 * CLASSES)
    return MeanVarianceNetwork(backbone, CLASSES, encoder, encoder[-1], 4)


def make_groups(*kinds: str) -> dict[str, dict[str, Tensor]]:
    """Labels have unlabeled pixels; the first image of each kind has no class 2."""
    generator = torch.Generator().manual_seed(1)
    groups: dict[str, dict[str, Tensor]] = {}
    for number, kind in enumerate(kinds):
        image = torch.randn(3, 1, *SIZE, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, CLASSES + 1, (2, 3, 1, *SIZE), generator=generator)
        labels[:, 0][labels[:, 0] == 2] = 0
        groups[kind] = {"image": image, "label": labels[0], "weak_label": labels[1]}
        groups[kind]["index"] = (torch.arange(3) + number) % 3
    if "none" in groups:
        groups["none"] = {"image": groups["none"]["image"]}
    return groups


def transcribed(logits: Tensor, label: Tensor) -> float:
    """Of the labeled voxels: mean cross-entropy, and the Dice of the foreground classes there."""
    z = logits.detach().numpy()
    known = label[:, 0].numpy() < CLASSES
    p, q = (np.moveaxis(f(z, axis=1), 1, -1)[known] for f in (softmax, log_softmax))
    y = np.eye(CLASSES)[label[:, 0].numpy()[known]]
    dice = [
        1 - (2 * (p[:, c] * y[:, c]).sum() + 1e-5) / (p[:, c].sum() + y[:, c].sum() + 1e-5)
        for c in range(1, CLASSES)
        if y[:, c].any()
    ]
    return float(-(y * q).sum() / len(y) + np.mean(dice))


def of_images(step: ForwardStep, name: str, group: dict[str, Tensor]) -> float:
    """Mean over the images of γ × their own loss."""
    logits = step.networks[name](group["image"], branch="main")
    values = [transcribed(logits[[k]], group["label"][[k]]) for k in range(3)]
    return float(np.mean([GAMMA[int(i)] * v for i, v in zip(group["index"], values, strict=True)]))


def of(step: ForwardStep, kind: str, key: str = "label", **how: str) -> float:
    """The loss of one network's branch and one kind of images."""
    group = GROUPS[kind]
    network = step.networks[how.get("network", "network")]
    logits = network(group["image"], branch=how.get("branch", "main"))
    return transcribed(logits, group[key])


def of_both_kinds(step: ForwardStep) -> float:
    """Of the student's logits of the partial and, with their weak labels, the full images."""
    network = step.networks["network"]
    logits = [network(GROUPS[kind]["image"], branch="student") for kind in ("full", "partial")]
    labels = [GROUPS["full"]["weak_label"], GROUPS["partial"]["label"]]
    return transcribed(torch.cat(logits), torch.cat(labels))


def of_samples(step: ForwardStep) -> float:
    mean, log_variance, *_ = step.networks["network"](GROUPS["full"]["image"], branch="heads")
    torch.manual_seed(0)
    return transcribed(sample_logits(mean, log_variance), GROUPS["full"]["label"])


def of_ancillary(step: ForwardStep) -> float:
    group = GROUPS["full"]
    noisy = torch.eye(CLASSES + 1)[group["weak_label"][:, 0]][..., :CLASSES].movedim(-1, 1)
    logits = step.objective.ancillary(torch.cat((group["image"], noisy), 1), branch="main")
    return transcribed(logits, group["label"])


def dcr(**options: Any) -> DynamicCoRegularization:
    objective = DynamicCoRegularization(["full", "noisy", "noisy"], **options)
    objective.gamma.copy_(torch.tensor(GAMMA))
    return objective


GROUPS = make_groups("full", "partial", "none", "noisy", "primary", "auxiliary")
Expected = dict[str, Callable[[ForwardStep], float]]
#: Method → how it is made, its network, and its terms that are supervised.
METHODS: dict[str, tuple[Callable[..., Objective], Callable[[], Any], Expected]] = {
    "confkd": (
        lambda **o: ConfKD(0.1, 50, 1, **o),
        lambda: make_network(branches=2),
        {
            "ce_full": lambda s: of(s, "full", branch="teacher"),
            "ce_weak": lambda s: of(s, "partial", branch="student"),
        },
    ),
    "confkd, weak_on all": (
        lambda **o: ConfKD(0.1, 50, 1, weak_on="all", **o),
        lambda: make_network(branches=2),
        {"ce_full": lambda s: of(s, "full", branch="teacher"), "ce_weak": of_both_kinds},
    ),
    "single": (
        lambda **o: ConfKD(0.1, 0, 1, weak_branch="main", **o),
        make_network,
        {"ce_full": lambda s: of(s, "full"), "ce_weak": lambda s: of(s, "partial")},
    ),
    "uamt": (UAMT, make_network, {"supervised": lambda s: of(s, "full")}),
    "glmi": (
        lambda **o: GLMI(layers=LAYERS, importance=[1, 1], padding=[1], heads=2, **o),
        make_network,
        {"ce_full": lambda s: of(s, "full")},
    ),
    "ssco": (
        lambda **o: SSCO(students=2, **o),
        make_network,
        {"ce_full": lambda s: (of(s, "full") + of(s, "full", network="peer_2")) / 2},
    ),
    "entropy minimization": (EntropyMinimization, heads_network, {"ce_segmentation": of_samples}),
    "dcr": (
        dcr,
        make_network,
        {
            "ce_primary": lambda s: of_images(s, "network", GROUPS["primary"]),
            "ce_auxiliary": lambda s: of_images(s, "auxiliary", GROUPS["auxiliary"]),
        },
    ),
    "macro-micro": (
        MacroMicro,
        make_network,
        {
            "ce_micro": lambda s: of(s, "full"),
            "ce_macro": lambda s: of(s, "noisy", network="macro"),
        },
    ),
    "self-correcting": (
        lambda **o: SelfCorrecting(make_network(1 + CLASSES), **o),
        make_network,
        {"ce_full": lambda s: of(s, "full"), "ce_ancillary": of_ancillary},
    ),
    "ficklenet": (
        lambda **o: FickleNet("encoder.blocks.2", 4, CLASSES, **o),
        make_network,
        {"ce_full": lambda s: of(s, "full")},
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_dice_joins_the_supervised_terms_and_no_others(method: str) -> None:
    make, network, expected = METHODS[method]
    found = []
    for name in ("cross_entropy", "dice_cross_entropy"):
        torch.manual_seed(0)
        objective = make(supervised_loss=name)
        assert objective.supervised_loss == name  # type: ignore[comparison-overlap]
        networks = NetworkSet(network(), objective)
        step = ForwardStep(networks, objective).double().train()
        torch.manual_seed(0)
        found.append(step(GROUPS))
    before, after = found
    assert set(before) == set(after) == set(objective.weights)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(expected)
    for name, transcription in expected.items():
        # MONAI sums the labels in float32, whatever the logits are.
        assert after[name].item() == pytest.approx(transcription(step), rel=1e-6)


def test_default_is_that_of_the_paper() -> None:
    methods = [(*METHODS[name][:2], name) for name in METHODS if name != "uamt"]
    for make, _, name in methods:
        assert make().supervised_loss == "cross_entropy", name  # type: ignore[comparison-overlap]
    assert (UAMT().supervised, UAMT().supervised_loss) == ("ce_dice", None)


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_loss_is_refused(method: str) -> None:
    message = "^supervised_loss must be one of cross_entropy, dice_cross_entropy, got 'dice'$"
    with pytest.raises(ValueError, match=message):
        METHODS[method][0](supervised_loss="dice")
    with pytest.raises(ValueError, match=message):
        supervised_term("dice", by_image=True)


def test_dice_has_no_divisor_of_all_voxels() -> None:
    message = "^weak_normalization='all' divides the cross-entropy alone: set supervised_loss to"
    with pytest.raises(ValueError, match=message):
        ConfKD(weak_normalization="all", supervised_loss="dice_cross_entropy")
