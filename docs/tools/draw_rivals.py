"""Figures of the semi-supervised methods and of proposals, for docs/tools/draw_methods.py.

Networks, averages and active terms are read from the objectives; what feeds a term is written here.
"""

from __future__ import annotations

from dataclasses import dataclass

from svg import BLUE, GRAY, GREEN, INK, ORANGE, arrow, box, document, text
from torch.optim import Adam

from mixseg.networks import DualBranchUNet, ImageDiscriminator, VoxelDiscriminator
from mixseg.objectives import (
    GLMI,
    S4GAN,
    SSCO,
    UAMT,
    AdversarialSemiSupervised,
    DynamicCoRegularization,
    EntropyMinimization,
    FickleNet,
    MacroMicro,
    MultiTaskAttention,
    Objective,
    SelfCorrecting,
    TurnSpec,
)

COLORS = {"full": BLUE, "none": GRAY, "noisy": ORANGE} | {
    "primary": BLUE,
    "mixed": GRAY,
    "auxiliary": ORANGE,
}
#: Kind of image → middle of its box, its two lines.
IMAGES = {
    "full": (75, ["Full masks", "N patients"]),
    "none": (235, ["No labels", "5N patients"]),
    "noisy": (235, ["Noisy masks", "many images"]),
    "primary": (65, ["Primary stream", "drawn by γ"]),
    "mixed": (155, ["Mixed", "a region on the other"]),
    "auxiliary": (245, ["Auxiliary stream", "drawn evenly"]),
}


@dataclass(frozen=True)
class Term:
    """A loss term: symbol, words, and (row of networks, kind of image) of all that it reads."""

    symbol: str
    words: str
    sources: tuple[tuple[str, str], ...]


#: Page → title, objective, the words of its networks' rows, the images each sees, its terms.
SEMI: dict[str, tuple[str, Objective, dict[str, tuple[str, str]], dict[str, Term]]] = {
    "uamt": (
        "UA-MT",
        UAMT(),
        {"network": ("Student", "full none"), "averages": ("Teacher", "none")},
        {
            "supervised": Term("L_{s}", "cross-entropy and Dice", (("network", "full"),)),
            "consistency": Term(
                "λ_{con} · L_{con}",
                "squared difference, where certain",
                (("network", "none"), ("averages", "none")),
            ),
        },
    ),
    "glmi": (
        "GLMI",
        GLMI(layers={"encoder": 8, "decoder.1": 4, "decoder.2": 2}),
        {"network": ("Network", "full none"), "heads": ("Heads", "")},
        {
            "ce_full": Term("L_{s}", "cross-entropy with the mask", (("network", "full"),)),
            "consistency": Term(
                "λ_{con} · L_{con}", "f(Tx) against T f(x)", (("network", "none"),)
            ),
            "global": Term("λ_{g} · L_{global}", "information of images", (("heads", "none"),)),
            "local": Term("λ_{l} · L_{local}", "information of voxels", (("heads", "none"),)),
        },
    ),
    "ssco": (
        "SSCO",
        SSCO(),
        {
            "network": ("Student 1", "full none"),
            "peers": ("Students", "full none"),
            "averages": ("Teachers", "none"),
        },
        {
            "ce_full": Term(
                "L_{s}", "mean cross-entropy", (("network", "full"), ("peers", "full"))
            ),
            "co_training": Term(
                "λ_{co} · L_{co}",
                "divergence of all students",
                (("network", "none"), ("peers", "none")),
            ),
            "self_consistency": Term(
                "λ_{sc} · L_{sc}",
                "each student and its teacher",
                (("network", "none"), ("peers", "none"), ("averages", "none")),
            ),
        },
    ),
    "entropy_minimization": (
        "Entropy minimization",
        EntropyMinimization(),
        {"network": ("Network", "full none"), "image": ("Classes of the image", "")},
        {
            "ce_segmentation": Term(
                "L_{s}", "cross-entropy, sampled pixels", (("network", "full"),)
            ),
            "ce_class": Term("L_{s}", "cross-entropy, sampled classes", (("image", "full"),)),
            "gradient": Term("λ · L_{g}", "edges of the encoder's levels", (("network", "none"),)),
            "sharpening": Term(
                "λ · L_{sh}", "squared difference to itself, sharper", (("network", "none"),)
            ),
            "class_consistency": Term(
                "λ · L_{c}",
                "no pixels of improbable classes",
                (("network", "none"), ("image", "none")),
            ),
        },
    ),
    "adversarial": (
        "Adversarial learning",
        AdversarialSemiSupervised(VoxelDiscriminator(), Adam),
        {"network": ("Network", "full none"), "turns": ("Discriminator", "full")},
        {
            "ce_full": Term("L_{ce}", "cross-entropy with the mask", (("network", "full"),)),
            "adversarial_full": Term(
                "λ_{adv} · L_{adv}",
                "taken for a mask, where labeled",
                (("network", "full"), ("turns", "full")),
            ),
            "adversarial_none": Term(
                "λ_{adv} · L_{adv}",
                "taken for a mask",
                (("network", "none"), ("turns", "none")),
            ),
            "self_training": Term(
                "λ_{semi} · L_{semi}",
                "own classes, where trusted",
                (("network", "none"), ("turns", "none")),
            ),
        },
    ),
    "multitask": (
        "Multi-task attention",
        MultiTaskAttention(DualBranchUNet(features=(4, 8), branches=1)),
        {"network": ("Network", "full none"), "heads": ("Second decoder", "")},
        {
            "ce_full": Term("L_{ce}", "cross-entropy with the mask", (("network", "full"),)),
            "reconstruction": Term(
                "λ · L_{rec}",
                "each class's part of the image",
                (("network", "full"), ("network", "none"), ("heads", "full"), ("heads", "none")),
            ),
        },
    ),
    "s4gan": (
        "s4GAN",
        S4GAN(ImageDiscriminator(), Adam),
        {"network": ("Network", "full none"), "turns": ("Discriminator", "full none")},
        {
            "ce_full": Term("L_{ce}", "cross-entropy with the mask", (("network", "full"),)),
            "feature_matching": Term(
                "λ_{fm} · L_{fm}",
                "features of masks and predictions",
                (("network", "none"), ("turns", "full"), ("turns", "none")),
            ),
            "self_training": Term(
                "λ_{st} · L_{st}",
                "own classes, images taken for real",
                (("network", "none"), ("turns", "none")),
            ),
        },
    ),
    "dcr": (
        "DCR",
        DynamicCoRegularization(["full", "noisy"]),
        {"network": ("Network", "primary mixed"), "peers": ("Networks", "mixed auxiliary")},
        {
            "ce_primary": Term(
                "γ_{i} · L_{i}", "cross-entropy with the mask", (("network", "primary"),)
            ),
            "regularization": Term(
                "λ ½(γ_{i} + γ_{j}) · r_{ij}",
                "each with the other's mixed mask",
                (("network", "mixed"), ("peers", "mixed")),
            ),
            "ce_auxiliary": Term(
                "γ_{j} · L_{j}", "cross-entropy with the mask", (("peers", "auxiliary"),)
            ),
        },
    ),
    "self_correcting": (
        "Self-Correcting",
        SelfCorrecting(DualBranchUNet(in_channels=3, features=(4, 8), branches=1)),
        {"network": ("Network", "full noisy"), "ancillary": ("Ancillary network", "full noisy")},
        {
            "ce_full": Term("L_{s}", "cross-entropy with the mask", (("network", "full"),)),
            "ce_refined": Term(
                "λ_{w} · L_{w}",
                "cross-entropy with the refined mask",
                (("network", "noisy"), ("ancillary", "noisy")),
            ),
            "ce_ancillary": Term(
                "L_{anc}", "cross-entropy with the mask", (("ancillary", "full"),)
            ),
        },
    ),
    "macro_micro": (
        "Macro-Micro",
        MacroMicro(),
        {
            "network": ("Micro", "full noisy"),
            "peers": ("Macro", "noisy"),
            "averages": ("Macro's mean", "noisy"),
        },
        {
            "ce_micro": Term("L_{micro}", "cross-entropy with the mask", (("network", "full"),)),
            "guidance": Term(
                "λ_{g} · L_{g}",
                "KL(micro ‖ macro), by certainty",
                (("network", "noisy"), ("peers", "noisy")),
            ),
            "ce_macro": Term("L_{macro}", "cross-entropy, noisy mask", (("peers", "noisy"),)),
            "feeding": Term(
                "λ_{f} · L_{f}",
                "KL(mean ‖ micro), by certainty",
                (("network", "noisy"), ("averages", "noisy")),
            ),
        },
    ),
    "ficklenet": (
        "FickleNet",
        FickleNet("encoder.center", 8, 2),
        {"network": ("Network", "full noisy"), "image": ("Classes of the image", "")},
        {
            "ce_full": Term("L_{s}", "cross-entropy with the mask", (("network", "full"),)),
            "ce_seeds": Term(
                "λ_{s} · L_{seed}",
                "cross-entropy with localized seeds",
                (("network", "noisy"), ("image", "noisy")),
            ),
            "bce_class": Term("λ_{c} · L_{c}", "classes in the noisy mask", (("image", "noisy"),)),
        },
    ),
}


def _members(objective: Objective, row: str) -> list[str]:
    """Networks that a row stands for."""
    if row == "network":
        return ["network"]
    further = {n: s for n, s in objective.networks.items() if not isinstance(s, TurnSpec)}
    averaged = {name: spec.average_of is not None for name, spec in further.items()}
    return [name for name, is_average in averaged.items() if is_average == (row == "averages")]


def _lines(objective: Objective, row: str, name: str) -> list[str]:
    """What a network's box says."""
    if row == "network":
        return [name, "predicts"]
    if row == "heads":
        return [name, "dropped afterwards"]
    if row == "image":
        refines = isinstance(objective, EntropyMinimization)
        return [name, "may refine the pixels'" if refines else "random maps of them"]
    if row == "turns":
        return [name, "trains in turn"]
    if row == "ancillary":
        return [name, "sees the weak mask, too"]
    count = len(_members(objective, row))
    if row == "peers":
        numbered = f"{name} 2 … {count + 1}" if count > 1 else f"{name[:-1]} 2"
        return [numbered if name.endswith("s") else name, "drawn apart"]  # a plural, or a name
    return [f"{name} 1 … {count}" if count > 1 else name, "moving average"]


def semi(page: str) -> str:
    """Images, networks and loss terms of a semi-supervised method."""
    title, objective, rows, terms = SEMI[page]
    if set(terms) != set(objective.weights):
        raise ValueError(f"{page}: the figure shows {sorted(terms)}, the objective has others")
    shapes = []
    kinds = {kind for _, seen in rows.values() for kind in seen.split()}
    for kind, (y, lines) in IMAGES.items():
        if kind in kinds:
            shapes.append(box(12, y - 32, 150, 64, lines, color=COLORS[kind]))
    middles = {row: 155 + 95 * (i - (len(rows) - 1) / 2) for i, row in enumerate(rows)}
    for row, (name, seen) in rows.items():
        y = middles[row]
        lines = _lines(objective, row, name)
        color = GREEN if row == "network" else INK
        shapes.append(box(290, y - 32, 170, 64, lines, color=color, dashed=row == "averages"))
        for i, kind in enumerate(seen.split()):
            shift = (i - (len(seen.split()) - 1) / 2) * 20
            shapes.append(arrow((162, IMAGES[kind][0]), (288, y + shift), color=COLORS[kind]))
    if "turns" in rows:  # what it judges
        pair = (375, middles["network"] + 32), (375, middles["turns"] - 32)
        shapes.append(arrow(*pair))
        shapes.append(text(383, 159, "predictions", size=11, anchor="start"))
    if "averages" in rows:  # what they follow
        above = middles[list(rows)[-2]]
        shapes.append(arrow((375, above + 32), (375, middles["averages"] - 32), dashed=True))
    for row in {"heads", "image"} & set(rows):
        shapes.append(arrow((375, middles["network"] + 32), (375, middles[row] - 32)))
        shapes.append(text(383, 159, "features", size=11, anchor="start"))
    step = min(78, 250 / (len(terms) - 1))
    for i, term in enumerate(terms.values()):
        y = 155 + step * (i - (len(terms) - 1) / 2)
        for row, kind in term.sources:
            target = row == "averages"
            shapes.append(arrow((460, middles[row]), (588, y), color=COLORS[kind], dashed=target))
        shapes.append(box(590, y - 27, 268, 54, [term.symbol, term.words]))
    return document(870, 320, f"{title}: images, networks and loss terms", shapes)


def rounds(title: str, again: bool) -> str:
    """From a trained bundle to proposals, to a fresh network; and back, where rounds follow."""
    steps = [
        ["Trained bundle", "any method"],
        ["Proposals", "argmax masks of D_{w}"],
        ["Fresh network", "new weights, one branch"],
        ["Cross-entropy", "D_{s} and proposals alike"],
    ]
    shapes = []
    for i, lines in enumerate(steps):
        left = 12 + 216 * i
        color = (INK, GRAY, GREEN, BLUE)[i]
        shapes.append(box(left, 40, 180, 64, lines, color=color))
        if i:
            shapes.append(arrow((left - 36, 72), (left - 2, 72)))
    if again:
        shapes.append('<path d="M 534 106 V 150 H 318 V 116" fill="none" stroke="#333333" '
                      'stroke-width="2"/>')  # fmt: skip
        shapes.append(arrow((318, 122), (318, 106)))
        shapes.append(text(426, 168, "the next round's proposals", size=12))
    return document(870, 185 if again else 130, f"{title}: proposals and a fresh network", shapes)


def rivals() -> dict[str, str]:
    """File name → content."""
    drawn = {f"{page}.svg": semi(page) for page in SEMI}
    drawn["proposals.svg"] = rounds("Proposals", again=False)
    drawn["self_training.svg"] = rounds("Iterative self-training", again=True)
    return drawn
