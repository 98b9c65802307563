"""What the bundles of one data set share is the same in all of them, as text and as values."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixseg.cli.bundle_configs import check_shared

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
#: Data set → its bundles, the one that the others are compared with first.
METHODS = ("confkd", "single", "decoupled", "uamt", "glmi", "ssco")
FAMILIES = {data: [f"{data}_{method}" for method in METHODS] for data in ("acdc_lv", "la")}
SISTERS = [(names[0], name) for names in FAMILIES.values() for name in names[1:]]

CONFKD = {"lambda_w", "lambda_kd", "lambda_ent", "weak_on", "entropy_on", "weak_branch"} | {
    "weak_normalization",
    "divergence",
    "alpha",
    "smooth",
    "detach_teacher",
    "separate_forward",
}
#: Knobs that each method has beyond those of all; separate_forward has no meaning where the engine
#: forwards a single kind.
OWN_KNOBS: dict[str, set[str]] = {
    "confkd": CONFKD,
    "single": {"lambda_w", "lambda_ent", "weak_on", "entropy_on", "weak_normalization"}
    | {"separate_forward"},
    "decoupled": {"lambda_w", "weak_on", "weak_normalization", "separate_forward"},
    "uamt": {"lambda_con", "supervised", "passes", "noise_sd", "noise_limit", "certainty"}
    | {"teacher_decay", "separate_forward"},
    "glmi": {"lambda_global", "lambda_local", "lambda_con", "layers", "layer_channels", "clusters"}
    | {"heads", "importance", "padding", "max_angle", "flip_probability"},
    "ssco": {"lambda_co", "lambda_sc", "students", "gamma", "alpha", "confidence"}
    | {"unconfident_weight", "rotation", "teacher_decay"},
}
#: Knobs of all whose values are the method's: which cases it sees, and how its weights grow.
COUNTS = {"num_partial", "num_unlabeled", "batch_full", "batch_partial", "batch_unlabeled"} | {
    "epoch_length"
}
RAMPS = {"ramps", "ramp_shape"}
SEMI_SUPERVISED = {"uamt", "glmi", "ssco"}


@cache
def read(bundle: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((BUNDLES / bundle / "configs" / name).read_text())
    return content


def method(bundle: str) -> str:
    return bundle.rpartition("_")[2]


def knobs(content: dict[str, Any], end: str) -> dict[str, Any]:
    """The entries from bundle_root to the first component."""
    names = list(content)
    return {name: content[name] for name in names[names.index("bundle_root") : names.index(end)]}


def parts(content: dict[str, Any], end: str) -> dict[str, Any]:
    names = list(content)
    return {name: content[name] for name in names[names.index(end) :]}


def resolved(content: Any, values: dict[str, Any]) -> Any:
    """The entries with plain references to knobs replaced by their values, as far as they go."""
    if isinstance(content, dict):
        return {key: resolved(value, values) for key, value in content.items()}
    if isinstance(content, list):
        return [resolved(value, values) for value in content]
    if isinstance(content, str) and content.startswith("@") and content[1:] in values:
        return resolved(values[content[1:]], values)
    return content


def without(content: dict[str, Any], *places: str) -> dict[str, Any]:
    """A copy without the entries at these places, ``a#b#c``."""
    copied = yaml.safe_load(yaml.safe_dump(content))
    for place in places:
        *path, last = place.split("#")
        node = copied
        for key in path:
            node = node[key]
        node.pop(last, None)
    return dict(copied)


def test_every_bundle_belongs_to_a_family() -> None:
    listed = sorted(name for names in FAMILIES.values() for name in names)
    assert sorted(p.name for p in BUNDLES.iterdir() if (p / "configs").is_dir()) == listed


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_training_knobs(first: str, sister: str) -> None:
    """All have the same knobs with the same values, but for those of the method."""
    one, other = (knobs(read(name, "train.yaml"), "datalist_content") for name in (first, sister))
    own = [set(OWN_KNOBS[method(name)]) for name in (first, sister)]
    assert own[0] <= set(one)
    assert own[1] <= set(other)
    assert one.keys() - own[0] == other.keys() - own[1]
    shared = [k for k in one if k in other and k not in own[0] | own[1]]
    assert shared == [k for k in other if k in one and k not in own[0] | own[1]]  # their order, too
    different = {name for name in shared if one[name] != other[name]}
    counts = COUNTS if method(sister) in SEMI_SUPERVISED else set()
    assert different <= counts | RAMPS


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_training_components(first: str, sister: str) -> None:
    """Data, network, optimiser, engine, handlers, validation: only the objective is another one."""
    both = []
    for name in (first, sister):
        content = read(name, "train.yaml")
        values = knobs(content, "datalist_content")
        alike = {k: v for k, v in values.items() if k not in COUNTS | RAMPS | CONFKD}
        components = parts(content, "datalist_content")
        own = ("objective", "network_def#branches", "train#trainer#separate_forward")
        both.append(resolved(without(components, *own), alike))
    assert both[0] == both[1]


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_inference(first: str, sister: str) -> None:
    """The pipeline of inference is the same; a network of one branch is told so."""
    one, other = (read(name, "inference.yaml") for name in (first, sister))
    assert list(one) == list(other)
    ignored = ("branch", "network_def#branches")
    assert without(one, *ignored) == without(other, *ignored)
    single = method(sister) != "decoupled"
    assert other["branch"] == ("teacher" if single else "student")
    for name in ("train.yaml", "inference.yaml"):
        branches = read(sister, name)["network_def"].get("branches", 2)
        assert branches == (1 if single else 2), name


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_evaluation(first: str, sister: str) -> None:
    """What is scored and how is the same; the report states the method's own knobs, too."""
    one, other = (read(name, "evaluate.yaml") for name in (first, sister))
    both = []
    for name, content in ((first, one), (sister, other)):
        copied = yaml.safe_load(yaml.safe_dump(content))
        report = next(h for h in copied["validate#handlers"] if "configuration" in h)
        stated = report.pop("configuration")
        assert all(value == f"@{key}" for key, value in stated.items())
        known = set(knobs(read(name, "train.yaml"), "datalist_content"))
        assert OWN_KNOBS[method(name)] | COUNTS | RAMPS <= set(stated)
        assert set(stated) <= known | {"split"}
        both.append((copied, set(stated) - OWN_KNOBS[method(name)]))
    assert both[0] == both[1]


@pytest.mark.parametrize(("first", "sister"), SISTERS)
@pytest.mark.parametrize(
    "name", ["LICENSE", "configs/logging.conf", "configs/multi_gpu_train.yaml"]
)
def test_files_that_are_the_same(first: str, sister: str, name: str) -> None:
    assert (BUNDLES / first / name).read_bytes() == (BUNDLES / sister / name).read_bytes()


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_metadata(first: str, sister: str) -> None:
    one, other = (read(name, "metadata.json") for name in (first, sister))
    texts = {"name", "task", "description", "references", "label_classes", "version", "changelog"}
    assert one.keys() == other.keys()
    assert {k for k in one if one[k] != other[k]} <= texts
    assert one["name"] != other["name"]


@pytest.mark.parametrize("bundle", [name for names in FAMILIES.values() for name in names])
def test_training_and_inference_agree(bundle: str) -> None:
    assert check_shared(BUNDLES / bundle) == []


@pytest.mark.parametrize("bundle", [name for _, name in SISTERS if "decoupled" not in name])
def test_a_branch_that_does_not_exist_is_not_named(bundle: str) -> None:
    """Configurations of a network of one branch speak of no student's branch."""
    for path in (BUNDLES / bundle / "configs").glob("*.yaml"):
        values = re.sub(r"#.*", "", path.read_text())  # the networks of SSCO are students, too
        assert not re.search(r"\bstudent\b", values), path


def test_data_and_recipe_of_the_semi_supervised_methods_are_one() -> None:
    for names in FAMILIES.values():
        chosen = [
            {k: read(name, "train.yaml")[k] for k in COUNTS}
            for name in names
            if method(name) in SEMI_SUPERVISED
        ]
        assert chosen[0] == chosen[1] == chosen[2]
        assert chosen[0]["num_partial"] == chosen[0]["batch_partial"] == 0
        assert chosen[0]["num_unlabeled"] == "$5 * @num_full"


@pytest.mark.parametrize("bundle", [name for names in FAMILIES.values() for name in names])
def test_every_knob_is_read(bundle: str) -> None:
    content = read(bundle, "train.yaml")
    for knob in knobs(content, "datalist_content"):
        rest = yaml.safe_dump({name: value for name, value in content.items() if name != knob})
        assert re.search(rf"@{knob}\b", rest), knob
