"""Multi-task attention: terms against transcriptions, whose turn it is, what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixseg.networks import DualBranchDynUNet, DualBranchUNet, DualBranchVNet
from mixseg.objectives import MultiTaskAttention

C, CHANNELS = 3, 2
NETWORKS: dict[str, Any] = {
    "unet": (DualBranchUNet, 2, {"features": (2, 4), "norm": "instance", "dropout": 0.0}),
    "unet 3d": (DualBranchUNet, 3, {"features": (2, 4), "norm": "instance", "dropout": 0.0}),
    "dynunet": (DualBranchDynUNet, 2, {"features": (2, 4, 4), "dropout": 0.0}),
    "vnet": (DualBranchVNet, 3, {"features": (2, 4, 4), "norm": "none", "dropout": 0.0}),
}


def build(name: str = "unet", **options: Any) -> tuple[MultiTaskAttention, dict[str, Any], Any]:
    """The method, its networks and a batch of both kinds, in float64."""
    torch.manual_seed(2)
    make, dims, settings = NETWORKS[name]
    settings = {**settings, "spatial_dims": dims, "in_channels": CHANNELS, "branches": 1}
    network = make(out_channels=C, **settings).double()
    method = MultiTaskAttention(make(out_channels=C * CHANNELS, **settings), **options).double()
    sides = (16, 8) if dims == 2 else (8, 8, 16)
    image = torch.randn(5, CHANNELS, *sides, dtype=torch.float64)
    label = torch.randint(0, C + 1, (2, 1, *sides))
    batch = {"full": {"image": image[:2], "label": label}, "none": {"image": image[2:]}}
    return method, {"network": network}, batch


def squares(method: MultiTaskAttention, network: Any, image: Tensor) -> Tensor:
    """(B,): mean over classes, channels and voxels of (r_ck - p_c x_k)²."""
    x, skips = network.encoder(image)
    r = method.reconstructor.main(x, skips)
    p = network(image, branch="main").softmax(dim=1)
    parts = [p[:, c] * image[:, k] for c in range(C) for k in range(CHANNELS)]
    return torch.stack([(r[:, i] - part) ** 2 for i, part in enumerate(parts)]).mean(
        dim=[0, *range(2, r.ndim)]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_terms_are_those_of_the_formulas(name: str) -> None:
    method, networks, batch = build(name, training_mode="joint")
    terms = method({}, batch, networks)
    logits = networks["network"](batch["full"]["image"], branch="main")
    wanted = F.cross_entropy(logits, batch["full"]["label"][:, 0], ignore_index=C)
    torch.testing.assert_close(terms["ce_full"], wanted, rtol=1e-9, atol=0)
    images = torch.cat([batch["full"]["image"], batch["none"]["image"]])
    reconstruction = squares(method, networks["network"], images).mean()
    torch.testing.assert_close(terms["reconstruction"], reconstruction, rtol=1e-9, atol=0)


def test_alternating_takes_one_task_a_step_the_segmentation_first() -> None:
    method, networks, batch = build()
    joint, _, _ = build(training_mode="joint")
    both = joint({}, batch, networks)
    names = ["ce_full", "reconstruction", "ce_full", "reconstruction"]
    for name in names:
        terms = method({}, batch, networks)
        assert list(terms) == [name]
        torch.testing.assert_close(terms[name], both[name])
    # A resumed run continues in turn; evaluation takes no turn.
    method({}, batch, networks)
    again, _, _ = build()
    again.load_state_dict(method.state_dict())
    again.eval()
    for _ in range(2):
        assert list(again({}, batch, networks)) == ["reconstruction"]


def test_what_each_task_trains() -> None:
    """The encoder learns from both tasks, each decoder from its own, and the target's softmax."""

    def trained(term: str, **options: Any) -> set[str]:
        method, networks, batch = build(training_mode="joint", **options)
        method({}, batch, networks)[term].backward()
        parts = {
            "encoder": networks["network"].encoder,
            "main": networks["network"].main,
            "reconstructor": method.reconstructor,
        }
        return {
            name
            for name, part in parts.items()
            if any(p.grad is not None and p.grad.any() for p in part.parameters())
        }

    assert trained("ce_full") == {"encoder", "main"}
    assert trained("reconstruction") == {"encoder", "main", "reconstructor"}
    assert trained("reconstruction", attention_gradient=False) == {"encoder", "reconstructor"}


def test_unlabeled_voxels_count_for_the_reconstruction_alone() -> None:
    method, networks, batch = build(training_mode="joint")
    before = method({}, batch, networks)
    batch["full"]["label"] = torch.full_like(batch["full"]["label"], C)
    after = method({}, batch, networks)
    assert after["ce_full"].item() == 0
    assert torch.equal(after["reconstruction"], before["reconstruction"])


def test_weights_and_kinds_choose_the_terms() -> None:
    method, networks, batch = build(lambda_rec=0)
    for _ in range(2):
        assert list(method({}, batch, networks)) == ["ce_full"]
    method, networks, batch = build()
    assert list(method({}, {"none": batch["none"]}, networks)) == ["reconstruction"]
    assert not hasattr(method.reconstructor, "encoder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_rec": -1}, "^lambda_rec must not be negative, got -1$"),
        ({"training_mode": "both"}, "^training_mode must be one of alternating, joint, got 'both'"),
        ({"supervised_loss": "dice"}, "^supervised_loss must be one of cross_entropy, dice_cr"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_reconstructor_of_two_branches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^reconstructor needs branches=1, got 2$"):
        MultiTaskAttention(DualBranchUNet(features=(2, 4)))
