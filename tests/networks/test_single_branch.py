"""A plain network in place of the package's own, as the branch main."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.networks.nets import DynUNet, SegResNet, SwinUNETR
from torch import Tensor, nn

from mixseg.engines import MixedSupervisionEvaluator, MixedSupervisionTrainer
from mixseg.engines.network_set import fresh_copy
from mixseg.networks import SingleBranchNetwork
from mixseg.objectives import ConfKD


def segresnet(spatial_dims: int = 2, **arguments: Any) -> SingleBranchNetwork:
    torch.manual_seed(0)
    plain = SegResNet(spatial_dims, 8, out_channels=3, blocks_down=(1, 1, 1), blocks_up=(1, 1))
    return SingleBranchNetwork(plain, **{"size_divisor": 4, **arguments})


@pytest.mark.parametrize("sides", [(8, 12), (8, 12, 4)])
def test_logits_are_those_of_the_plain_network(sides: tuple[int, ...]) -> None:
    network = segresnet(len(sides)).eval()
    image = torch.randn(2, 1, *sides)
    expected = network.main(image)
    assert expected.shape == (2, 3, *sides)
    for branch in (None, "main"):
        assert torch.equal(network(image, branch=branch), expected)
    assert (network.branches, network.branch_names, network.branch) == (1, ("main",), "main")
    assert network.size_divisor == 4


def test_swin_transformers_fit_too() -> None:
    pytest.importorskip("einops")
    plain = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=2)
    network = SingleBranchNetwork(plain, size_divisor=32).eval()
    image = torch.randn(1, 1, 64, 32)
    assert torch.equal(network(image, branch="main"), plain(image))


def test_state_dict_is_the_plain_networks_below_main() -> None:
    network, other = segresnet(), segresnet()
    plain = network.main.state_dict()
    assert list(network.state_dict()) == [f"main.{name}" for name in plain]
    nn.init.zeros_(next(other.parameters()))
    other.main.load_state_dict(plain, strict=True)
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(other.eval()(image), network.eval()(image))
    peer = fresh_copy(network)
    assert not torch.equal(next(peer.parameters()), next(network.parameters()))


class Batches:
    """Two mixed batches of a disk, brighter than what lies around it."""

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        label = torch.zeros(4, 1, 16, 16, dtype=torch.int64)
        label[..., 4:12, 4:12] = 1
        for _ in range(len(self)):
            image = label + 0.1 * torch.randn(label.shape, generator=generator)
            given = label.clone()
            given[2:, :, :8] = 3  # partly labeled
            kinds = ["full", "full", "partial", "partial"]
            yield {"image": image, "label": given, "supervision": kinds, "case_id": list("abcd")}

    def __len__(self) -> int:
        return 2


def test_two_iterations_of_training_and_a_validation() -> None:
    """Weights that the trainer's step has moved, by the gradients of both kinds of labels."""
    network, before = segresnet(), segresnet()
    objective = ConfKD(0.5, 0, 0, weak_branch="main")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses: list[dict[str, Tensor]] = []
    trainer = MixedSupervisionTrainer("cpu", 1, Batches(), network, optimizer, objective)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.extend(e.state.output))
    trainer.run()
    assert [set(one) for one in losses] == 2 * [{"loss", "ce_full", "ce_weak"}]
    # The first step by hand: SGD on ce_full + ½ ce_weak of the first batch.
    terms = torch.zeros(())
    batch = next(iter(Batches()))
    for part, weight in ((slice(0, 2), 1.0), (slice(2, 4), 0.5)):
        logits = before.train()(batch["image"][part])
        label = batch["label"][part, 0]
        cross_entropy = nn.functional.cross_entropy(logits, label, ignore_index=3)
        terms = terms + weight * cross_entropy
    assert losses[0]["loss"].item() == pytest.approx(terms.item(), rel=1e-5)
    moved = zip(network.parameters(), before.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in moved)

    evaluator = MixedSupervisionEvaluator(
        "cpu", [{"image": batch["image"][:1]}], network, branches=objective.trained_branches
    )
    found: list[dict[str, Tensor]] = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda e: found.append(e.state.output))
    evaluator.run()
    ((item,),) = found
    assert list(item) >= ["main"]
    expected = network.eval()(batch["image"][:1]).softmax(dim=1)[0]
    torch.testing.assert_close(item["main"], expected)


class Coarse(nn.Module):
    """Logits of half the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)


def test_networks_and_images_that_do_not_fit() -> None:
    image = torch.zeros(1, 1, 8, 8)
    for branch in ("teacher", "student", "both"):
        message = f"branch must be main, the network's only one, got '{branch}'"
        with pytest.raises(ValueError, match=re.escape(message)):
            segresnet()(image, branch=branch)
        with pytest.raises(ValueError, match=re.escape(message)):
            segresnet(branch=branch)
    message = "every side must be a multiple of 4, got (8, 10); pad or resize the image"
    with pytest.raises(ValueError, match=re.escape(message)):
        segresnet()(torch.zeros(1, 1, 8, 10))
    message = "every side must be a multiple of (4, 2), got (8, 9); pad or resize the image"
    with pytest.raises(ValueError, match=re.escape(message)):
        segresnet(size_divisor=[4, 2])(torch.zeros(1, 1, 8, 9))
    with pytest.raises(ValueError, match="size_divisor must be at least 1, got 0"):
        segresnet(size_divisor=0)
    message = "Coarse must return logits of the image's size (8, 8), got (1, 2, 4, 4)"
    with pytest.raises(ValueError, match=re.escape(message)):
        SingleBranchNetwork(Coarse())(image)
    # Deep supervision stacks several heads' logits while training.
    arguments = {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3}
    deep = DynUNet(2, 1, 2, **arguments, deep_supervision=True, deep_supr_num=1)
    with pytest.raises(ValueError, match="DynUNet must return logits of the image's size"):
        SingleBranchNetwork(deep).train()(torch.zeros(2, 1, 16, 16))
