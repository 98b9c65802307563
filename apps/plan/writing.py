"""The files of a bundle that ``mixseg new`` writes, from the templates that mixseg ships."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from mixseg.apps.bundle.find import ROOT
from mixseg.apps.plan.card import FILL_IN, REFERENCES, data_license, model_card
from mixseg.apps.plan.choices import Choice
from mixseg.apps.plan.measure import DataFacts
from mixseg.apps.plan.plan import Plan
from mixseg.configuration.paths import literal_path
from mixseg.configuration.yaml_text import set_values

#: Method → number of dimensions → the bundle that another one is made from.
TEMPLATES = {
    "mixed": {2: "acdc_lv_mixed", 3: "la_mixed"},
    "confkd": {2: "acdc_lv_confkd", 3: "la_confkd"},
}

#: Column at which the templates' comments begin.
_COLUMN = 36
_HEADER = re.compile(r"\A(?:#[^\n]*\n)+")
_WIDTH = 100
# What the configurations begin with: a paragraph, then lines as they stand.
_FIRST = {
    "train.yaml": "{summary} Written by `mixseg new`; what was chosen for the data says why, in "
    "its comment.",
    "inference.yaml": "Masks of {names} for every image below dataset_dir:",
    "evaluate.yaml": "Scores of trained weights, passed after the run's train.yaml:",
    "multi_gpu_train.yaml": "Training on several GPUs or machines, passed after train.yaml (from "
    "the bundle's folder):",
}
_REST = {
    "train.yaml": """
  python -m monai.bundle run training --config_file configs/train.yaml

Every setting below can be set on the command line by its name: --max_epochs 10 --seed 1""",
    "inference.yaml": """
  python -m monai.bundle run inference --config_file configs/inference.yaml --dataset_dir IMAGES

Each mask lies on its image's own grid. What is shared with train.yaml is the same there.""",
    "evaluate.yaml": """
  python -m monai.bundle run evaluating \\
    --config_file "['eval/configs/train.yaml','eval/configs/evaluate.yaml']" --output_dir eval/test

Writes metrics.csv, summary.json and cases.png to output_dir.""",
    "multi_gpu_train.yaml": """
  torchrun --nproc_per_node=2 -m monai.bundle run training \\
    --config_file "['configs/train.yaml','configs/multi_gpu_train.yaml']"

Each process draws batches of its own: on two GPUs halve the sizes that begin with batch_.""",
}


def find_template(method: str, dimensions: int) -> Path:
    """The bundle that comes with mixseg for a method and a number of dimensions.

    Raises:
        ValueError: it is not beside the installed package.
    """
    name = TEMPLATES[method][dimensions]
    folder = ROOT / "bundles" / name
    if not (folder / "configs" / "train.yaml").is_file():
        raise ValueError(
            f"the template {name} is not in {folder.parent}: this installation of mixseg is "
            "incomplete; install it again"
        )
    return folder


def bundle_files(plan: Plan) -> dict[str, str]:
    """Path in the bundle → text, for every file of it.

    Raises:
        ValueError: the template is not there, or lacks one of the settings.
    """
    template = find_template(plan.method, plan.dimensions)
    train = {choice.setting: choice for choice in (*_place_choices(plan), *plan.choices)}
    files = {}
    for name in ("train.yaml", "inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml"):
        text = (template / "configs" / name).read_text(encoding="utf-8")
        if name == "train.yaml":
            text = _with_choices(text, list(train.values()))
        elif name == "inference.yaml":
            known = yaml.safe_load(text)
            shared = {k: choice for k, choice in train.items() if k in known}
            own = [c for c in _inference_choices(plan) if c.setting in known]
            shared |= {choice.setting: choice for choice in own}
            text = _with_choices(text, list(shared.values()))
        files[f"configs/{name}"] = _header(name, plan) + _HEADER.sub("", text)
    files["configs/metadata.json"] = _metadata(template, plan)
    for name in ("configs/logging.conf", "LICENSE"):
        files[name] = (template / name).read_text(encoding="utf-8")
    files["docs/README.md"] = model_card(plan, _settings(files["configs/train.yaml"]))
    files["docs/data_license.txt"] = data_license(plan)
    return files


def _place_choices(plan: Plan) -> list[Choice]:
    where = "relative paths start here, else beside the datalist"
    return [
        Choice("dataset_dir", "$@bundle_root + '/data'", where),
        Choice("datalist", literal_path(plan.datalist), "the cases; made for these"),
    ]


def _inference_choices(plan: Plan) -> list[Choice]:
    ext = ".png" if plan.facts.pictures else ".nii.gz"
    return [
        Choice("dataset_dir", "$@bundle_root + '/data'", "a folder of images, or one image"),
        Choice("output_dir", "$@bundle_root + '/eval/masks'", f"masks, as <image name>_seg{ext}"),
        Choice("output_postfix", "seg", "of the masks' names"),
        Choice("output_ext", ext, "of the masks' files"),
        *([] if plan.facts.partial else [Choice("branch", "teacher", "it alone is trained")]),
    ]


def _with_choices(text: str, choices: Sequence[Choice]) -> str:
    """The configuration with other values, each with its reason as the comment."""
    text = set_values(text, {choice.setting: choice.value for choice in choices})
    for choice in choices:
        # set_values leaves a value on one line; a comment follows two spaces at least.
        pattern = re.compile(
            rf"^({re.escape(choice.setting)}: .*?)(?: {{2,}}#[^\n]*)?$", re.MULTILINE
        )
        found = pattern.search(text)
        assert found is not None, choice.setting
        line = found[1].rstrip().ljust(_COLUMN - 1) + " " if len(found[1]) < _COLUMN else found[1]
        line = line if line.endswith(" ") else line + "  "
        text = text[: found.start()] + f"{line}# {choice.reason}" + text[found.end() :]
    return text


def _settings(text: str) -> list[tuple[str, str, str]]:
    """Name, value as it is written, and comment of every setting of train.yaml."""
    ends = (text.index(f"\n{name}:") for name in ("num_classes", "datalist_content"))
    top = text[text.index("\nbundle_root:") : min(ends)]
    found = re.findall(r"^(\w+): (.+?)(?: +# ([^\n]*))?$", top, re.MULTILINE)
    return [(name, value.strip().strip('"'), comment) for name, value, comment in found]


def _header(name: str, plan: Plan) -> str:
    names = ", ".join(plan.facts.classes[1:])
    first = _FIRST[name].format(names=names, summary=plan.summary)
    lines = [*textwrap.wrap(first, _WIDTH - 2), *_REST[name].splitlines()]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _metadata(template: Path, plan: Plan) -> str:
    """metadata.json of the template with this bundle's own texts and shapes."""
    content: dict[str, Any] = json.loads(
        (template / "configs" / "metadata.json").read_text(encoding="utf-8")
    )
    content.pop("expected_quality", None)  # was measured on the template's weights
    facts, names = plan.facts, plan.facts.classes
    listed = ", ".join(f"{i} is {name}" for i, name in enumerate(names))
    content |= {
        "version": "0.1.0",
        "changelog": {"0.1.0": "written by mixseg new"},
        "name": plan.name,
        "task": f"Segmentation of {', '.join(names[1:])}, learned from mixed supervision",
        "description": f"{plan.summary} Trained on {facts.full_cases} cases with full masks and "
        f"{facts.partial_cases} with partial labels.",
        "authors": FILL_IN,
        "copyright": FILL_IN,
        "data_source": FILL_IN,
        "data_type": "picture" if facts.pictures else "volume",
        "image_classes": f"{facts.channels} channels, normalized as train.yaml says",
        "label_classes": f"single channel data, {listed}; in training labels {facts.unlabeled} is "
        "unlabeled",
        "pred_classes": f"{len(names)} channels: {listed}",
        "references": list(REFERENCES[plan.method]),
    }
    content["required_packages_version"]["mixseg"] = version("mixseg")
    formats = content["network_data_format"]
    low, high = plan.value_range
    formats["inputs"]["image"] |= {
        "num_channels": facts.channels,
        "modality": "n/a",
        "value_range": [low, high],
        "channel_def": _channels(facts),
    }
    formats["outputs"]["pred"] |= {
        "num_channels": len(names),
        "channel_def": {str(i): name for i, name in enumerate(names)},
    }
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"


def _channels(facts: DataFacts) -> Mapping[str, str]:
    if facts.channels == 3 and facts.pictures:
        return {"0": "red", "1": "green", "2": "blue"}
    return {str(i): "image" if facts.channels == 1 else f"image {i}" for i in range(facts.channels)}
