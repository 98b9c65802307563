"""Heads that project features to soft cluster assignments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from mixseg.losses import MutualInformationLoss
from mixseg.networks.projection import GlobalProjectionHead, LocalProjectionHead


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts() -> None:
    # heads · clusters · (in + 1), a weight an input and a bias.
    assert parameters(GlobalProjectionHead(256)) == 5 * 20 * 257 == 25_700
    assert parameters(LocalProjectionHead(64)) == 5 * 20 * 65 == 6_500
    assert parameters(LocalProjectionHead(64, spatial_dims=3)) == 6_500
    # The papers' U-Net: 1024 channels at the deepest level, 256 and 128 in the decoder.
    heads = [GlobalProjectionHead(1024), LocalProjectionHead(256), LocalProjectionHead(128)]
    assert [parameters(head) for head in heads] == [102_500, 25_700, 12_900]
    assert parameters(GlobalProjectionHead(3, clusters=4, heads=2)) == 2 * 4 * 4 == 32


@pytest.mark.parametrize("spatial", [(5, 6), (4, 3, 5)])
def test_equals_numpy(spatial: tuple[int, ...]) -> None:
    features = torch.randn(3, 7, *spatial, dtype=torch.float64)
    dims = len(spatial)
    pooling = GlobalProjectionHead(7, clusters=4, heads=3).double()
    pixelwise = LocalProjectionHead(7, clusters=4, heads=3, spatial_dims=dims).double()
    array = features.numpy()
    pooled = array.reshape(3, 7, -1).mean(axis=2)
    for head, values in ((pooling, pooled), (pixelwise, array)):
        weight, bias = (p.detach().numpy() for p in head.layer.parameters())
        weight = weight.reshape(3, 4, 7)
        found = head(features)
        assert len(found) == 3
        for k, assignment in enumerate(found):
            scores = np.einsum("ki,bi...->bk...", weight[k], values)
            scores += bias.reshape(3, 4)[k].reshape(1, 4, *[1] * (values.ndim - 2))
            np.testing.assert_allclose(
                assignment.detach().numpy(), softmax(scores, axis=1), rtol=1e-10
            )
    assert [z.shape for z in pooling(features)] == [(3, 4)] * 3
    assert [z.shape for z in pixelwise(features)] == [(3, 4, *spatial)] * 3


def test_sub_heads_have_weights_of_their_own() -> None:
    head = LocalProjectionHead(5, clusters=3, heads=2)
    first, second = head(torch.randn(2, 5, 4, 4))
    assert not torch.allclose(first, second)
    (grad,) = torch.autograd.grad(first.square().sum(), head.layer.weight)
    assert grad[:3].any()
    assert not grad[3:].any()


def test_batched_equals_one_by_one_and_sizes_are_free() -> None:
    features = torch.randn(3, 5, 6, 8)
    for head in (GlobalProjectionHead(5), LocalProjectionHead(5)):
        whole = head(features)
        single = [torch.cat(parts) for parts in zip(*map(head, features.split(1)), strict=True)]
        torch.testing.assert_close(list(whole), single)
        assert head(features[..., :3])[0].shape[0] == 3
    # A pooled image does not see where its voxels are.
    mixed = features.flatten(2)[..., torch.randperm(48)].view_as(features)
    pooling = GlobalProjectionHead(5)
    torch.testing.assert_close(pooling(mixed), pooling(features))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_assignments_sum_to_one_under_autocast(dtype: torch.dtype) -> None:
    features = torch.randn(4, 6, 5, 5)
    for head in (GlobalProjectionHead(6), LocalProjectionHead(6)):
        with torch.autocast("cpu", dtype=dtype):
            found = head(features)
        for assignment in found:
            assert assignment.dtype == torch.float32
            total = assignment.sum(dim=1)
            torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_heads_learn_to_agree_on_balanced_clusters(dims: int) -> None:
    """Two kinds of images, one with noise: two clusters, -ln 2 at best."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    kinds = torch.tensor([[2.0, -1.0, 0.0], [-2.0, 0.0, 1.0]]).repeat(4, 1)
    features = kinds.view(8, 3, *[1] * dims).expand(8, 3, *[4] * dims)
    noisy = features + 0.1 * torch.randn(features.shape, generator=generator)
    for head, padding in (
        (GlobalProjectionHead(3, clusters=2, heads=2), 0),
        (LocalProjectionHead(3, clusters=2, heads=2, spatial_dims=dims), 1),
    ):
        loss = MutualInformationLoss(padding)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            value = loss(head(features), head(noisy))
            value.backward()
            optimizer.step()
        assert -0.6932 < value.item() < -0.65


@pytest.mark.parametrize("head", [GlobalProjectionHead, LocalProjectionHead])
def test_option_errors(head: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        head(0)
    with pytest.raises(ValueError, match="clusters must be at least 2, got 1"):
        head(4, clusters=1)
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        head(4, heads=0)


def test_shape_errors() -> None:
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 1"):
        LocalProjectionHead(4, spatial_dims=1)
    with pytest.raises(
        ValueError, match=r"features of shape \(B, 4, H, W\), got \(2, 4, 3, 3, 3\)"
    ):
        LocalProjectionHead(4)(torch.zeros(2, 4, 3, 3, 3))
    with pytest.raises(
        ValueError, match=r"features of shape \(B, 4, H, W, D\), got \(2, 3, 3, 3, 3\)"
    ):
        LocalProjectionHead(4, spatial_dims=3)(torch.zeros(2, 3, 3, 3, 3))
    with pytest.raises(ValueError, match=r"features of shape \(B, 4, H, W\[, D\]\), got \(2, 4\)"):
        GlobalProjectionHead(4)(torch.zeros(2, 4))
