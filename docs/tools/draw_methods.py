"""Draw the figures of the method pages: what each method forwards, and which terms it sums.

    python docs/tools/draw_methods.py           # writes docs/figures/methods/*.svg
    python docs/tools/draw_methods.py --check   # exit status 1 if one is out of date

The data flow is read from the objective itself: the method's weights build a `ConfKD`, which says
what branches it forwards for which images and what terms are active. The curves are computed by
the loss functions. The compared methods' figures are those of draw_rivals.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from draw_rivals import rivals
from svg import BLUE, DIM, GREEN, INK, ORANGE, arrow, box, document, text, write

from mixseg.losses import distillation, pseudo_label_cross_entropy, shannon_entropy
from mixseg.objectives import ConfKD

FIGURES = Path(__file__).resolve().parents[1] / "figures" / "methods"
COLORS = {"full": BLUE, "partial": ORANGE}

#: Page → name, settings of the bundle, and the images with full masks.
METHODS: dict[str, tuple[str, dict[str, Any], str]] = {
    "lower_bound": (
        "Lower bound",
        {"lambda_w": 0, "lambda_kd": 0, "lambda_ent": 0},
        "N patients",
    ),
    "upper_bound": (
        "Upper bound (Set-N)",
        {"lambda_w": 0, "lambda_kd": 0, "lambda_ent": 0},
        "all 6N patients",
    ),
    "single": ("Single", {"weak_branch": "teacher", "lambda_kd": 0, "lambda_ent": 0}, "N patients"),
    "decoupled": ("Decoupled", {"lambda_kd": 0, "lambda_ent": 0}, "N patients"),
    "kl": ("KL", {"lambda_ent": 0}, "N patients"),
    "confkd": ("KL+Ent (ConfKD)", {}, "N patients"),
}
#: Term → its box: middle height, symbol, what it is.
TERMS = {
    "ce_full": (65, "L_{s}, eq. 1", "cross-entropy with the mask"),
    "kd": (155, "L_{kd}, eq. 3", "KL(teacher ‖ student), all pixels"),
    "ce_weak": (235, "L_{w}, eq. 2", "cross-entropy, labeled pixels"),
    "entropy": (305, "L_{ent}, eq. 4", "entropy, all pixels"),
}
WEIGHTS = {"kd": "λ_{kd}", "ce_weak": "λ_{w}", "entropy": "λ_{ent}"}
LEVEL = {"full": 65, "partial": 270, "teacher": 65, "student": 270}


def _icon(x: float, y: float, kind: str) -> str:
    """A heart's cavity: filled for a full mask, a core in an outline for a scribble."""
    color, dash = COLORS[kind], "" if kind == "full" else ' stroke-dasharray="3 3"'
    fill = color if kind == "full" else "none"
    shape = (
        f'<ellipse cx="{x}" cy="{y}" rx="20" ry="15" fill="{fill}" stroke="{color}" '
        f'stroke-width="1.5"{dash}/>'
    )
    if kind == "partial":
        shape += f'<ellipse cx="{x}" cy="{y}" rx="6" ry="4" fill="{color}"/>'
    return shape


def flow(name: str, settings: dict[str, Any], patients: str) -> str:
    """Images, encoder, decoders and loss terms of a method; what takes no part is gray."""
    objective = ConfKD(**settings)
    branches, weights = objective.branches, objective.weights
    shapes = []
    for kind, words in (
        ("full", ["Full masks", patients]),
        ("partial", ["Scribbles", "5N patients"]),
    ):
        used = kind in branches
        y = LEVEL[kind]
        color = COLORS[kind] if used else DIM
        shapes.append(box(12, y - 32, 168, 64, [], color=color, dashed=not used))
        if used:
            shapes.append(_icon(42, y, kind))
        for row, line in enumerate(words):
            shapes.append(
                text(
                    122, y - 4 + 18 * row, line, size=13 - row, bold=not row,
                    color=INK if used else DIM,
                )
            )  # fmt: skip
        if used:
            shapes.append(arrow((180, y), (238, y), color=color))
    shapes.append(box(240, 30, 92, 276, ["Encoder", "shared"], fill="#f3f4f6"))

    for branch in ("teacher", "student"):
        y = LEVEL[branch]
        lit = branch in objective.trained_branches
        lines = [branch.capitalize()]
        if not lit:
            lines.append("not computed")
        elif branch == objective.inference_branch:
            lines.append("predicts")
        kinds = [k for k, needed in branches.items() if needed in (branch, "both")]
        for i, kind in enumerate(kinds):
            height = y + (i - (len(kinds) - 1) / 2) * 18
            shapes.append(arrow((332, height), (398, height), color=COLORS[kind]))
        color = GREEN if branch == objective.inference_branch else INK if lit else DIM
        shapes.append(box(400, y - 32, 118, 64, lines, color=color, dashed=not lit))

    sources = {
        "ce_full": [("teacher", "full")],
        "kd": [("teacher", "full"), ("student", "full")],
        "ce_weak": [(objective.weak_branch, "partial")],
        "entropy": [(objective.weak_branch, "partial")],
    }
    for term, (y, symbol, words) in TERMS.items():
        active = term in weights
        symbol = f"{WEIGHTS[term]} · {symbol}" if term in WEIGHTS and active else symbol
        if active:
            for branch, kind in sources[term]:
                # Without a gradient into the teacher its arrow is dashed.
                target = term == "kd" and branch == "teacher" and objective.detach_teacher
                shapes.append(
                    arrow((518, LEVEL[branch]), (608, y), color=COLORS[kind], dashed=target)
                )
        color = INK if active else DIM
        shapes.append(box(610, y - 27, 248, 54, [symbol, words], color=color, dashed=not active))
    return document(870, 340, f"{name}: images, branches and loss terms", shapes)


def _axes(x: float, y: float, width: float, height: float, labels: tuple[str, str]) -> list[str]:
    """A frame with its two labels."""
    frame = (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" '
        f'stroke="{DIM}"/>'
    )
    below = text(x + width / 2, y + height + 34, labels[0], size=12)
    return [frame, below, text(x, y - 10, labels[1], size=12, anchor="start")]


def _ticks(
    x: float, y: float, width: float, height: float, low: float, high: float, step: float
) -> list[str]:
    """Marks 0, ½ and 1 below, every ``step`` from low to high at the left."""
    shapes = [text(x + width * t, y + height + 16, f"{t:g}", size=11) for t in (0, 0.5, 1)]
    for i in range(round((high - low) / step) + 1):
        value = round(low + i * step, 6)
        place = y + height * (high - value) / (high - low)
        shapes.append(text(x - 6, place + 4, f"{value:g}", size=11, anchor="end"))
    return shapes


def _curve(xs: list[float], ys: list[float], frame: tuple[float, ...], color: str) -> str:
    """A line through the points, in a frame (x, y, width, height, low, high)."""
    x, y, width, height, low, high = frame
    points = " ".join(
        f"{x + width * a:.1f},{y + height * (high - b) / (high - low):.1f}"
        for a, b in zip(xs, ys, strict=True)
    )
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2.5"/>'


def _logits(foreground: torch.Tensor) -> torch.Tensor:
    """(N, 2, 1) logits, float64, of N pixels with these foreground probabilities."""
    return torch.stack([1 - foreground, foreground], dim=1).log().unsqueeze(-1)


def entropy_curves() -> str:
    """Shannon entropy and min-entropy of (1 − p, p), and what they do to the logit."""
    p = torch.linspace(0.005, 0.995, 100, dtype=torch.float64)
    shapes = []
    for left, labels, bounds in (
        (60, ("foreground probability p", "loss, nats"), (0.0, 0.7, 0.1)),
        (
            480,
            ("foreground probability p", "derivative by the foreground's logit"),
            (-0.6, 0.6, 0.2),
        ),
    ):
        shapes += _axes(left, 40, 340, 220, labels)
        shapes += _ticks(left, 40, 340, 220, *bounds)
    for term, color in ((shannon_entropy, BLUE), (pseudo_label_cross_entropy, ORANGE)):
        values, slopes = [], []
        for logits in _logits(p).split(1):
            logits = logits.clone().requires_grad_()
            value = term(logits)
            (gradient,) = torch.autograd.grad(value, logits)
            values.append(value.item())
            slopes.append(gradient[0, 1, 0].item())
        middle = len(values) // 2
        shapes.append(_curve(p.tolist(), values, (60, 40, 340, 220, 0, 0.7), color))
        frame = (480, 40, 340, 220, -0.6, 0.6)
        # The hard label changes sides at one half, where its derivative jumps.
        for part in (slice(0, middle), slice(middle, None)):
            shapes.append(_curve(p.tolist()[part], slopes[part], frame, color))
        if term is shannon_entropy:
            between = slice(middle - 1, middle + 1)
            shapes.append(_curve(p.tolist()[between], slopes[between], frame, color))
    shapes.append(text(230, 245, "Shannon entropy, eq. 4", color=BLUE))
    shapes.append(text(230, 228, "hard pseudo-labels", color=ORANGE))
    return document(840, 310, "Entropy and pseudo-labels, loss and derivative", shapes)


def smoothing_curves() -> str:
    """KL of the student from a teacher that is sure, with softmax over softmax and without."""
    q = torch.linspace(0.05, 0.999, 120, dtype=torch.float64)
    teacher = _logits(torch.tensor([0.99], dtype=torch.float64))
    shapes = [
        *_axes(60, 40, 340, 220, ("student's foreground probability", "KL, nats")),
        *_ticks(60, 40, 340, 220, 0.0, 3.0, 1.0),
    ]
    for smooth, color in ((True, BLUE), (False, ORANGE)):
        values = [
            distillation(teacher, student, smooth=smooth).item() for student in _logits(q).split(1)
        ]
        shapes.append(_curve(q.tolist(), values, (60, 40, 340, 220, 0, 3), color))
    shapes.append(text(390, 75, "softmax", color=ORANGE, anchor="end"))
    shapes.append(text(390, 93, "softmax over softmax", color=BLUE, anchor="end"))
    return document(430, 310, "KL with and without softmax over softmax", shapes)


def figures() -> dict[str, str]:
    """File name → content."""
    drawn = {f"{page}.svg": flow(*method) for page, method in METHODS.items()}
    drawn |= rivals()
    return drawn | {"entropy.svg": entropy_curves(), "smoothing.svg": smoothing_curves()}


if __name__ == "__main__":
    raise SystemExit(write(FIGURES, figures(), "--check" in sys.argv))
