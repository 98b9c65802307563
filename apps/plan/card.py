"""Model card and data license of a bundle that ``mixseg new`` writes."""

from __future__ import annotations

from collections.abc import Sequence

from mixseg.apps.plan.choices import numbers
from mixseg.apps.plan.plan import Plan

FILL_IN = "to be filled in by the author of this bundle"

#: Method → what it builds on.
REFERENCES = {
    "mixed": (
        "F. Isensee et al., 'nnU-Net: a self-configuring method for deep learning-based biomedical "
        "image segmentation', Nature Methods 18, 2021",
        "K. Gotkowski et al., 'Embarrassingly Simple Scribble Supervision for 3D Medical "
        "Segmentation', 2024, arXiv:2403.12834",
    ),
    "confkd": (
        "J. Dolz, C. Desrosiers, I. Ben Ayed, 'Teach me to segment with mixed supervision: "
        "Confident students become masters', IPMI 2021",
        "B. Liu, C. Desrosiers, I. Ben Ayed, J. Dolz, 'Segmentation with mixed supervision: "
        "Confidence maximization helps knowledge distillation', 2021",
    ),
}
#: Settings that the templates leave without a comment.
_PLAIN = {
    "device": "training device",
    "seed": "seed of weights, batches and dropout",
    "weight_decay": "weight decay of AdamW",
}

_LICENSE = """\
To be filled in by the author of this bundle: the terms of the data it was trained on

Data:    its name, and where to get it
Terms:   its license, with a link; or who gave which permission
Cite:    the publication that its users are asked to cite
Consent: the ethics approval or the consent under which the images may be used, if they show people

This bundle contains none of these data, but weights trained on them derive from them. State here
whether these weights may be passed on, to whom, and for what. Do not pass them on before. The
license of the bundle's own files (LICENSE, Apache-2.0) does not extend to such weights.

The bundle {name} was written by mixseg new for the datalist {datalist}.
"""


def data_license(plan: Plan) -> str:
    """A form for the terms of the user's data."""
    return _LICENSE.format(name=plan.name, datalist=plan.datalist.name)


def model_card(plan: Plan, settings: Sequence[tuple[str, str, str]]) -> str:
    """docs/README.md.

    Args:
        settings: name, value and comment of every setting of train.yaml.
    """
    facts = plan.facts
    chosen = {choice.setting for choice in plan.choices}
    names = ", ".join(facts.classes[1:])
    size = numbers(facts.shape[:2] if facts.pictures else facts.shape)
    unit = "pixels" if facts.pictures else f"voxels of {numbers(facts.spacing)} mm"
    plural = "s" if facts.channels > 1 else ""
    kinds = f"{facts.full_cases} with full masks"
    kinds += f" and {facts.partial_cases} with partial labels" if facts.partial else ""
    rows = [(n, v, c) for n, v, c in settings if n in chosen]
    # Where the data lie on this machine concerns nobody else.
    others = [(n, v, c) for n, v, c in settings if n not in chosen and n != "datalist"]
    sections = [
        f"# {plan.name}",
        f"Segments {names}. Written by `mixseg new` for data of its user; {FILL_IN}: what it is "
        "for, who made it, and its [data's terms](data_license.txt).",
        "For research only. Not a medical device, not for clinical use.",
        "## Data",
        f"Classes: {', '.join(f'{i} {name}' for i, name in enumerate(facts.classes))}; "
        f"{facts.unlabeled} is unlabeled. Training cases: {kinds}. Median image: {size} {unit}, "
        f"{facts.channels} channel{plural}. These were measured on the training cases alone; "
        "validation and test cases and the masks of unlabeled ones were not opened.",
        "## Method",
        plan.summary
        + (
            ""
            if facts.partial
            else " **No training case is partially labeled**, so this is the lower bound: masks "
            "alone. Add scribbled cases to the datalist and run `mixseg new` again to use them."
        ),
        "## Commands",
        "Run these commands in this folder, with `mixseg` installed. Settings are options: "
        "`--max-epochs 100`. Unknown names are refused.",
        "```bash\n"
        "mixseg train .\n"
        "mixseg train . --resume\n"
        "mixseg evaluate eval\n"
        "mixseg predict eval -i IMAGES -o MASKS\n"
        "mixseg export eval --format ts\n"
        "mixseg verify .\n"
        "```",
        "Or use `monai.bundle`, and write `True` and `False` as in Python:",
        "```bash\n"
        "python -m monai.bundle run training --config_file configs/train.yaml\n"
        "python -m monai.bundle run training --config_file configs/train.yaml --resume True\n"
        "python -m monai.bundle run evaluating "
        "--config_file \"['eval/configs/train.yaml','eval/configs/evaluate.yaml']\" "
        "--output_dir eval/test\n"
        "python -m monai.bundle run inference --config_file eval/configs/inference.yaml "
        "--dataset_dir IMAGES --output_dir eval/masks\n"
        "python -m monai.bundle ckpt_export network_def --filepath eval/models/model.ts "
        "--ckpt_file eval/models/model.pt --meta_file eval/configs/metadata.json "
        "--config_file eval/configs/inference.yaml\n"
        "```",
        "`eval/` then has `curves.png`, `cases.png`, `history.csv` and TensorBoard events. "
        "`eval/models/model.pt` has the weights with the best validation Dice, or the last "
        "averaged ones if the datalist has no validation cases. `eval/configs/` has the settings "
        "that the training ran with, for evaluation, inference and export.",
        "## Chosen settings and reasons",
        _table(rows),
        "## Other settings",
        _table(others),
        "## Results",
        "Not run yet. After evaluating, they are in `eval/test/summary.json`.",
        "## References",
        "\n".join(f"- {reference}" for reference in REFERENCES[plan.method]),
    ]
    return "\n\n".join(sections) + "\n"


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    lines = ["| Setting | Value | Why |", "|---|---|---|"]
    for name, value, comment in rows:
        lines.append(f"| `{name}` | `{value}` | {comment or _PLAIN.get(name, '')} |")
    return "\n".join(lines)
