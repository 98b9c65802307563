"""ConfKD against a float64 NumPy transcription of eqs. 1-5 (means over voxels instead of sums)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixseg.engines import ForwardStep
from mixseg.networks import DualBranchUNet
from mixseg.objectives import ConfKD

CLASSES = 3
SHAPE = (6, 5)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(z: np.ndarray, label: np.ndarray, divisor: str = "labeled") -> float:
    """Eqs. 1 and 2: -Σ_l log p_l(y_l) over the labeled voxels."""
    p, total, labeled = softmax(z), 0.0, 0
    for index in np.ndindex(label.shape[0], *label.shape[2:]):
        value = label[(index[0], 0, *index[1:])]
        if value != CLASSES:
            total -= np.log(p[(index[0], value, *index[1:])])
            labeled += 1
    return total / (labeled if divisor == "labeled" else label.size)


def entropy(z: np.ndarray) -> float:
    """Eq. 4: -Σ p log p."""
    p = softmax(z)
    return float(-(p * np.log(p)).sum(axis=1).mean())


def divergence(t: np.ndarray, s: np.ndarray, name: str, alpha: float, smooth: bool) -> float:
    """Eqs. 3, 6 and 7, teacher first."""
    p, q = (softmax(softmax(z)) if smooth else softmax(z) for z in (t, s))
    if name == "kl":
        values = (p * np.log(p / q)).sum(axis=1)
    elif name == "bhattacharyya":
        values = -np.log(np.sqrt(p * q).sum(axis=1))
    else:
        values = (1 - (p**alpha * q ** (1 - alpha)).sum(axis=1)) / (1 - alpha)
    return float(values.mean())


def random_batch(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Teacher and student logits of 2 full and 3 partial images, and their labels."""
    rng = np.random.default_rng(seed)
    z = {
        f"{branch}_{kind}": rng.normal(0, 2, (count, CLASSES, *SHAPE))
        for kind, count in (("full", 2), ("partial", 3))
        for branch in ("teacher", "student")
    }
    full = rng.integers(0, CLASSES, (2, 1, *SHAPE))
    weak_of_full = np.where(rng.random(full.shape) < 0.3, full, CLASSES)
    partial = rng.integers(0, CLASSES + 1, (3, 1, *SHAPE))
    return z, {
        "full": {"label": full, "weak_label": weak_of_full},
        "partial": {"label": partial},
    }


def as_outputs(objective: ConfKD, z: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the engine hands over: for each kind the branch that the objective asks for."""
    outputs: dict[str, Any] = {}
    for kind, branch in objective.branches.items():
        pair = tuple(torch.from_numpy(z[f"{b}_{kind}"]) for b in ("teacher", "student"))
        # The single branch has the teacher's logits.
        named = {"both": pair, "teacher": pair[0], "student": pair[1], "main": pair[0]}
        outputs[kind] = named[branch]
    return outputs


def as_batch(labels: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, Tensor]]:
    return {k: {n: torch.from_numpy(a) for n, a in g.items()} for k, g in labels.items()}


@pytest.mark.parametrize(
    ("weak_on", "entropy_on", "weak_branch", "normalization"),
    list(
        itertools.product(
            ("partial", "all"),
            ("partial", "all"),
            ("student", "teacher", "main"),
            ("labeled", "all"),
        )
    ),
)
def test_terms_equal_transcription(
    weak_on: str, entropy_on: str, weak_branch: str, normalization: str
) -> None:
    z, labels = random_batch()
    objective = ConfKD(
        0.1,
        50.0 if weak_branch == "student" else 0.0,
        1.0,
        weak_on=weak_on,
        entropy_on=entropy_on,
        weak_branch=weak_branch,
        weak_normalization=normalization,
    )
    terms = objective(as_outputs(objective, z), as_batch(labels))

    weak = "student" if weak_branch == "student" else "teacher"
    weak_z, weak_label = z[f"{weak}_partial"], labels["partial"]["label"]
    if weak_on == "all":
        weak_z = np.concatenate([z[f"{weak}_full"], weak_z])
        weak_label = np.concatenate([labels["full"]["weak_label"], weak_label])
    entropy_z = z[f"{weak}_partial"]
    if entropy_on == "all":
        entropy_z = np.concatenate([z[f"{weak}_full"], entropy_z])
    expected = {
        "ce_full": cross_entropy(z["teacher_full"], labels["full"]["label"]),
        "ce_weak": cross_entropy(weak_z, weak_label, normalization),
        "entropy": entropy(entropy_z),
    }
    if weak_branch == "student":
        expected["kd"] = divergence(z["teacher_full"], z["student_full"], "kl", 2.0, True)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(
    ("name", "alpha"), [("kl", 2.0), ("bhattacharyya", 2.0), ("tsallis", 2.0), ("tsallis", 3.0)]
)
def test_divergences_equal_transcription(
    name: str, alpha: float, smooth: bool, detach: bool
) -> None:
    z, labels = random_batch(1)
    objective = ConfKD(
        0.0, 50.0, 0.0, divergence=name, alpha=alpha, smooth=smooth, detach_teacher=detach
    )
    terms = objective(as_outputs(objective, z), as_batch(labels))
    expected = divergence(z["teacher_full"], z["student_full"], name, alpha, smooth)
    assert set(terms) == {"ce_full", "kd"}
    assert terms["kd"].item() == pytest.approx(expected, rel=1e-12)


# (λ_w, λ_kd, λ_ent, options) → branches, trained branches, names of the active terms
TABLE: list[tuple[tuple[float, float, float], dict[str, str], dict, tuple, set]] = [
    (
        (0.001, 50, 1),
        {},
        {"full": "both", "partial": "student"},
        ("teacher", "student"),
        {"ce_full", "ce_weak", "kd", "entropy"},
    ),
    ((0, 0, 0), {}, {"full": "teacher"}, ("teacher",), {"ce_full"}),
    (
        (0.001, 0, 0),
        {},
        {"full": "teacher", "partial": "student"},
        ("teacher", "student"),
        {"ce_full", "ce_weak"},
    ),
    (
        (0.1, 0, 0),
        {"weak_on": "all"},
        {"full": "both", "partial": "student"},
        ("teacher", "student"),
        {"ce_full", "ce_weak"},
    ),
    (
        (0, 0, 1),
        {"weak_on": "all"},  # of a term that is off
        {"full": "teacher", "partial": "student"},
        ("teacher", "student"),
        {"ce_full", "entropy"},
    ),
    (
        (0, 0, 1),
        {"entropy_on": "all"},
        {"full": "both", "partial": "student"},
        ("teacher", "student"),
        {"ce_full", "entropy"},
    ),
    ((0, 50, 0), {}, {"full": "both"}, ("teacher", "student"), {"ce_full", "kd"}),
    (
        (0.001, 0, 1),
        {"weak_branch": "teacher"},
        {"full": "teacher", "partial": "teacher"},
        ("teacher",),
        {"ce_full", "ce_weak", "entropy"},
    ),
    (
        (0.001, 0, 1),
        {"weak_branch": "teacher", "weak_on": "all", "entropy_on": "all"},
        {"full": "teacher", "partial": "teacher"},
        ("teacher",),
        {"ce_full", "ce_weak", "entropy"},
    ),
    (
        (0.001, 0, 1),
        {"weak_branch": "main", "weak_on": "all", "entropy_on": "all"},
        {"full": "main", "partial": "main"},
        ("main",),
        {"ce_full", "ce_weak", "entropy"},
    ),
    ((0, 0, 0), {"weak_branch": "main"}, {"full": "main"}, ("main",), {"ce_full"}),
]


def test_either_branch_predicts_where_both_are_trained() -> None:
    both, teacher_alone = (0.1, 0, 0), (0, 0, 0)
    assert ConfKD(*both).inference_branch == "student"
    assert ConfKD(*both, inference_branch="teacher").inference_branch == "teacher"
    assert ConfKD(*both, inference_branch="teacher").trained_branches == ("teacher", "student")
    assert ConfKD(*teacher_alone, inference_branch="student").inference_branch == "teacher"
    with pytest.raises(ValueError, match="inference_branch must be one of student, teacher"):
        ConfKD(inference_branch="ensemble")  # type: ignore[arg-type]


@pytest.mark.parametrize(("weights", "options", "branches", "trained", "names"), TABLE)
def test_zero_weights_skip_terms_and_branches(
    weights: tuple[float, float, float],
    options: dict[str, Any],
    branches: dict[str, str],
    trained: tuple[str, ...],
    names: set[str],
) -> None:
    objective = ConfKD(*weights, **options)
    assert objective.branches == branches
    assert objective.trained_branches == trained
    assert objective.inference_branch == trained[-1]
    z, labels = random_batch()
    # as_outputs holds what the table names and nothing else, so no term can read another branch.
    assert set(objective(as_outputs(objective, z), as_batch(labels))) == names
    given = dict(zip(("ce_weak", "kd", "entropy"), weights, strict=True)) | {"ce_full": 1.0}
    assert objective.weights == {name: given[name] for name in names}


def test_weights_follow_the_attributes() -> None:
    objective = ConfKD()
    objective.lambda_ent = 0.25
    assert objective.weights["entropy"] == 0.25
    objective.lambda_ent = 0.0
    assert "entropy" not in objective.weights


def test_missing_kinds_are_left_out() -> None:
    z, labels = random_batch()
    objective = ConfKD(0.1, 50, 1, weak_on="all", entropy_on="all")
    outputs, batch = as_outputs(objective, z), as_batch(labels)

    full_only = objective({"full": outputs["full"]}, {"full": batch["full"]})
    assert set(full_only) == {"ce_full", "kd", "ce_weak", "entropy"}
    assert full_only["ce_weak"].item() == pytest.approx(
        cross_entropy(z["student_full"], labels["full"]["weak_label"]), rel=1e-12
    )
    partial_only = objective({"partial": outputs["partial"]}, {"partial": batch["partial"]})
    assert set(partial_only) == {"ce_weak", "entropy"}
    assert partial_only["entropy"].item() == pytest.approx(entropy(z["student_partial"]), rel=1e-12)
    journal = ConfKD()
    assert set(journal({"full": outputs["full"]}, {"full": batch["full"]})) == {"ce_full", "kd"}


def gradients(objective: ConfKD, term: str, *, separate: bool = True) -> dict[str, bool]:
    """Which part of a network gets a gradient other than zero from one term."""
    torch.manual_seed(0)
    net = DualBranchUNet(features=(2, 3), out_channels=CLASSES, dropout=0.0)
    generator = torch.Generator().manual_seed(1)
    _, labels = random_batch()
    groups = as_batch(labels)
    for kind, count in (("full", 2), ("partial", 3)):
        groups[kind]["image"] = torch.randn(count, 1, 6, 4, generator=generator)
        groups[kind] = {
            name: array[..., :4] if name != "image" else array
            for name, array in groups[kind].items()
        }
    ForwardStep(net, objective, separate)(groups)[term].backward()
    return {
        part: any(
            p.grad is not None and bool((p.grad != 0).any())
            for p in getattr(net, part).parameters()
        )
        for part in ("encoder", "teacher", "student")
    }


ENCODER_TEACHER = {"encoder": True, "teacher": True, "student": False}
ENCODER_STUDENT = {"encoder": True, "teacher": False, "student": True}
ALL = {"encoder": True, "teacher": True, "student": True}


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize(
    ("term", "options", "expected"),
    [
        ("ce_full", {}, ENCODER_TEACHER),
        ("ce_weak", {}, ENCODER_STUDENT),
        ("ce_weak", {"weak_on": "all"}, ENCODER_STUDENT),
        ("entropy", {}, ENCODER_STUDENT),
        ("entropy", {"entropy_on": "all"}, ENCODER_STUDENT),
        ("kd", {}, ENCODER_STUDENT),
        ("kd", {"detach_teacher": False}, ALL),
    ],
)
def test_gradient_routing(
    term: str, options: dict[str, Any], expected: dict[str, bool], separate: bool
) -> None:
    assert gradients(ConfKD(0.1, 50, 1, **options), term, separate=separate) == expected


@pytest.mark.parametrize("normalization", ["labeled", "all"])
def test_unlabeled_voxels_do_not_matter(normalization: str) -> None:
    z, labels = random_batch()
    objective = ConfKD(0.1, 0, 0, weak_normalization=normalization)
    batch = as_batch(labels)
    unlabeled = (batch["partial"]["label"] == CLASSES).expand(-1, CLASSES, -1, -1)
    assert 0 < unlabeled.sum() < unlabeled.numel()

    def value_and_gradient(student: Tensor) -> tuple[float, Tensor]:
        student = student.clone().requires_grad_()
        outputs = {"full": torch.from_numpy(z["teacher_full"]), "partial": student}
        term = objective(outputs, batch)["ce_weak"]
        term.backward()
        assert student.grad is not None
        return term.item(), student.grad

    student = torch.from_numpy(z["student_partial"])
    value, gradient = value_and_gradient(student)
    changed = torch.where(unlabeled, 37.0 - 5 * student, student)
    other_value, other_gradient = value_and_gradient(changed)
    assert other_value == value
    assert torch.equal(other_gradient, gradient)
    assert (gradient[unlabeled] == 0).all()
    assert (gradient[~unlabeled] != 0).all()


def test_partial_batch_without_labeled_voxel_gives_zero() -> None:
    z, labels = random_batch()
    labels["partial"]["label"][:] = CLASSES
    objective = ConfKD(0.1, 0, 0)
    outputs = as_outputs(objective, z)
    outputs["partial"].requires_grad_()
    term = objective(outputs, as_batch(labels))["ce_weak"]
    term.backward()
    assert term.item() == 0
    assert (outputs["partial"].grad == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lambda_w": -0.1}, "lambda_w must not be negative, got -0.1"),
        ({"lambda_kd": -1.0}, "lambda_kd must not be negative, got -1.0"),
        ({"lambda_ent": float("nan")}, "lambda_ent must not be negative, got nan"),
        ({"weak_on": "full"}, "weak_on must be one of partial, all, got 'full'"),
        ({"entropy_on": "none"}, "entropy_on must be one of partial, all, got 'none'"),
        (
            {"weak_branch": "both"},
            "weak_branch must be one of student, teacher, main, got 'both'",
        ),
        (
            {"weak_normalization": "mean"},
            "weak_normalization must be one of labeled, all, got 'mean'",
        ),
        (
            {"divergence": "js"},
            "divergence must be one of kl, bhattacharyya, tsallis, got 'js'",
        ),
        (
            {"weak_branch": "teacher"},
            "weak_branch='teacher' is the single-branch baseline, which trains no student: "
            "set lambda_kd to 0",
        ),
        (
            {"weak_branch": "main"},
            "weak_branch='main' is the single-branch baseline, which trains no student: "
            "set lambda_kd to 0",
        ),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ConfKD(**arguments)
    assert str(caught.value) == message
