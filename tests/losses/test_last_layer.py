"""Cross-entropy an image and its gradients in the last layer, against autograd one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixseg.losses import image_cross_entropy, last_layer_gradients
from mixseg.networks import DualBranchDeepLab, DualBranchUNet
from mixseg.networks.features import forward_with_inputs

CLASSES = 3


def labels(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """All classes and unlabeled pixels; the last image has none that is labeled."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES + 1, shape, generator=generator, dtype=torch.uint8)
    label[-1] = CLASSES
    return label


def test_image_cross_entropy_equals_transcription() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (4, CLASSES, 5, 6))
    label = labels((4, 1, 5, 6))
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    expected = []
    for k in range(3):
        values = [
            -log_p[k, int(y), i, j]
            for (i, j), y in np.ndenumerate(label[k, 0].numpy())
            if y != CLASSES
        ]
        expected.append(sum(values) / len(values))
    found = image_cross_entropy(torch.from_numpy(z), label)
    np.testing.assert_allclose(found[:3].numpy(), expected, rtol=1e-12)
    assert found[3] == 0  # nothing is labeled
    # A channel axis more or less, and another integer dtype, are the same label.
    assert torch.equal(found, image_cross_entropy(torch.from_numpy(z), label[:, 0].long()))


def test_image_cross_entropy_gradient() -> None:
    label = labels((3, 1, 2, 2))
    z = torch.randn(3, CLASSES, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: image_cross_entropy(z, label), z)
    (gradient,) = torch.autograd.grad(image_cross_entropy(z, label).sum(), z)
    unknown = (label == CLASSES).expand_as(gradient)
    assert 0 < unknown[:2].sum() < unknown[:2].numel()
    assert not gradient[unknown].any()
    assert gradient[:2].any()


def test_images_weigh_alike_however_many_pixels_are_labeled() -> None:
    """One pixel of -ln ½ against four of -ln ¼: the mean is that of the images."""
    p = torch.tensor([[0.5] * 4, [0.25] * 4])
    logits = torch.stack([p, 1 - p], dim=1).log()
    label = torch.tensor([[[0, 2, 2, 2]], [[0, 0, 0, 0]]])
    np.testing.assert_allclose(
        image_cross_entropy(logits, label).numpy(), np.log([2.0, 4.0]), rtol=1e-6
    )


def class_means(values: Tensor, label: Tensor) -> Tensor:
    """Mean over the classes that the label shows of the mean value of each."""
    means = [values[label == c].mean() for c in range(CLASSES) if (label == c).any()]
    return torch.stack(means).mean() if means else 0 * values.sum()


def by_autograd(
    network: nn.Module, branch: str, image: Tensor, label: Tensor, balanced: bool
) -> Tensor:
    """Per-sample gradients of a branch's head: a forward and a backward pass an image."""
    head = network.get_submodule(f"{branch}.head")
    rows = []
    for k in range(len(image)):
        logits = network(image[k : k + 1], branch=branch)
        known = label[k] != CLASSES
        values = F.cross_entropy(logits, label[k].clamp(max=CLASSES - 1).long(), reduction="none")
        loss = (values * known).sum() / known.sum().clamp(min=1)
        if balanced:
            loss = class_means(values, label[k])
        weight, bias = torch.autograd.grad(loss, [head.weight, head.bias])
        rows.append(torch.cat([weight.flatten(1), bias[:, None]], dim=1))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        (DualBranchUNet, {"features": (4, 8, 16)}, (16, 24)),
        (DualBranchUNet, {"features": (4, 8), "spatial_dims": 3}, (8, 4, 6)),
        # Logits of 4×4 that are enlarged to the image.
        (DualBranchUNet, {"features": (4, 8), "padded": False}, (32, 36)),
        (
            DualBranchDeepLab,
            {"features": (3, 6, 6, 12), "encoder": "resnet18", "norm": "batch"},
            (32, 48),
        ),
    ],
)
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("balanced", [False, True])
def test_equals_per_sample_gradients_of_autograd(
    kind: type[nn.Module],
    options: dict[str, Any],
    size: tuple[int, ...],
    branches: int,
    balanced: bool,
) -> None:
    torch.manual_seed(1)
    network = kind(out_channels=CLASSES, branches=branches, **options).eval()
    branch = "main" if branches == 1 else "teacher"
    image, label = torch.randn(4, 1, *size), labels((4, 1, *size))
    label[1][label[1] == 1] = 0  # a class is missing
    label[2][label[2] == 2] = 0
    with torch.no_grad():
        logits, given = forward_with_inputs(network, [f"{branch}.head"], image, branch=branch)
    features = given[f"{branch}.head"]
    resized = features.shape[2:] != logits.shape[2:]
    assert resized == (kind is DualBranchDeepLab or not options.get("padded", True))
    found = last_layer_gradients(features, logits, label, class_balanced=balanced)
    expected = by_autograd(network, branch, image, label, balanced)
    assert found.shape == (4, CLASSES, features.shape[1] + 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert expected[:3].abs().amax(dim=(1, 2)).min() > 1e-4
    assert not found[3].any()  # an image without a label


@pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 2)])
def test_resized_logits_in_one_to_three_dimensions(size: tuple[int, ...]) -> None:
    """float64, sizes that are not multiples, against autograd through the resizing."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(3, 4, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(CLASSES, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(CLASSES, dtype=torch.float64, requires_grad=True)
    large = tuple(2 * side + 3 for side in size)
    small = torch.einsum("cf,bf...->bc...", weight, features)
    small = small + bias.view(-1, *[1] * len(size))
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    logits = F.interpolate(small, size=large, mode=mode, align_corners=False)
    label = labels((3, 1, *large))
    found = last_layer_gradients(features, logits, label)
    losses = image_cross_entropy(logits, label)
    for k in range(3):
        expected = torch.autograd.grad(losses[k], [weight, bias], retain_graph=True)
        torch.testing.assert_close(found[k, :, :-1], expected[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[k, :, -1], expected[1], rtol=1e-10, atol=1e-12)
    assert not found.requires_grad


@pytest.mark.parametrize("balanced", [False, True])
def test_unlabeled_pixels_do_not_matter(balanced: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 4, 3, 3, generator=generator)
    logits = torch.randn(2, CLASSES, 3, 3, generator=generator)
    label = labels((3, 1, 3, 3))[:2]
    unknown = label == CLASSES
    assert unknown.any()
    other = (torch.where(unknown, torch.inf, features), torch.where(unknown, 50.0, logits))
    found = last_layer_gradients(features, logits, label, class_balanced=balanced)
    same = last_layer_gradients(features, other[1], label, class_balanced=balanced)
    assert torch.equal(same, found)
    changed = torch.where(unknown, 7.0, other[0])
    same = last_layer_gradients(changed, logits, label, class_balanced=balanced)
    torch.testing.assert_close(same, found)


def test_a_small_object_counts_when_classes_are_balanced() -> None:
    """4 of 100 pixels are the object, p(object) is 0.2 everywhere; the feature is 1 on it.

    By hand, of the object's weight and bias; those of the background are the opposite.
    """
    features = torch.zeros(2, 1, 10, 10)
    features[..., :4] = torch.eye(10)[0][:, None]
    right = features[0].long()
    logits = torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1).expand(2, 2, 10, 10)
    label = torch.stack([right, torch.zeros_like(right)])
    plain = last_layer_gradients(features, logits, label)[:, 1]
    torch.testing.assert_close(plain, torch.tensor([[-0.032, 0.16], [0.008, 0.2]]))
    balanced = last_layer_gradients(features, logits, label, class_balanced=True)[:, 1]
    torch.testing.assert_close(balanced, torch.tensor([[-0.4, -0.3], [0.008, 0.2]]))
    # With a right mask to guide, an empty one agrees more than the right one does, or not at all.
    assert plain[0] @ plain[1] > plain[0] @ plain[0]
    assert balanced[0] @ balanced[1] < 0


@pytest.mark.parametrize("balanced", [False, True])
def test_a_batch_is_its_images(balanced: bool) -> None:
    features, logits = torch.randn(3, 4, 2, 2), torch.randn(3, CLASSES, 4, 4)
    label = labels((3, 1, 4, 4))
    alone = [
        last_layer_gradients(*parts, class_balanced=balanced)
        for parts in zip(features.split(1), logits.split(1), label.split(1), strict=True)
    ]
    found = last_layer_gradients(features, logits, label, class_balanced=balanced)
    torch.testing.assert_close(found, torch.cat(alone))


def test_half_precision_is_computed_in_single() -> None:
    features, logits = torch.randn(2, 4, 3, 3).half(), torch.randn(2, CLASSES, 3, 3).half()
    label = labels((2, 1, 3, 3))
    found = last_layer_gradients(features, logits, label)
    assert found.dtype == torch.float32
    assert torch.equal(found, last_layer_gradients(features.float(), logits.float(), label))


@pytest.mark.parametrize(
    ("features", "logits", "error", "message"),
    [
        ((2, 4, 3), (2, 3, 3, 3), ValueError, r"features must be \(B, F, \*spatial\) like logits"),
        ((1, 4, 3, 3), (2, 3, 3, 3), ValueError, r"got \(1, 4, 3, 3\)"),
        ((2, 4, 3, 3), (2, 3, 4, 3), ValueError, "label must have shape"),
    ],
)
def test_shapes_that_do_not_match(
    features: tuple[int, ...], logits: tuple[int, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        last_layer_gradients(torch.zeros(features), torch.zeros(logits), torch.zeros(2, 1, 3, 3))


def test_features_must_be_floating_point() -> None:
    with pytest.raises(TypeError, match=r"^features must be floating point, got torch.int64$"):
        last_layer_gradients(
            torch.zeros(1, 1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2)
        )
