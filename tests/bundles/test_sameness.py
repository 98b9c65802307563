"""What the bundles of one data set share is the same in all of them, as text and as values."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixseg.apps.pack.checks.configs import check_shared

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
METHODS = ("confkd", "single", "decoupled", "uamt", "glmi", "ssco")
WRONG_MASKS = ("selfcorrecting", "macromicro", "ficklenet")
WBC_METHODS = ("single", "decoupled", "uamt", "entmin", "dcr", *WRONG_MASKS)
#: Data set → its bundles, the one that the others are compared with first.
FAMILIES = {
    data: [f"{data}_{method}" for method in methods]
    for data, methods in (
        ("acdc_lv", (*METHODS, "entmin", "dcr")),
        ("la", METHODS),
        ("wbc", WBC_METHODS),
    )
}
#: One recipe for several data sets, compared in test_flagship.py.
FLAGSHIPS = ["acdc_lv_mixed", "acdc_mixed", "la_mixed", "wbc_mixed"]
ALL = [*FLAGSHIPS, *(name for names in FAMILIES.values() for name in names)]
SISTERS = [(names[0], name) for names in FAMILIES.values() for name in names[1:]]

CONFKD = {"lambda_w", "lambda_kd", "lambda_ent", "weak_on", "entropy_on", "weak_branch"} | {
    "weak_normalization",
    "divergence",
    "alpha",
    "smooth",
    "detach_teacher",
    "separate_forward",
}
#: Knobs of the network of means and variances, in inference.yaml, too.
HEADS = {"encoder_layers", "class_layer", "class_channels", "refine"}
NOISE = {"num_noisy", "noise_kind", "noise_distortion", "noise_missing", "noise_seed"}
#: Knobs that each method has beyond those of all; separate_forward has no meaning where the engine
#: forwards a single kind.
OWN_KNOBS: dict[str, set[str]] = {
    "confkd": CONFKD,
    "single": {"lambda_w", "lambda_ent", "weak_on", "entropy_on", "weak_normalization"}
    | {"separate_forward"},
    "decoupled": {"lambda_w", "weak_on", "weak_normalization", "inference_branch"}
    | {"separate_forward"},
    "uamt": {"lambda_con", "supervised", "passes", "noise_sd", "noise_limit", "certainty"}
    | {"teacher_decay", "separate_forward"},
    "glmi": {"lambda_global", "lambda_local", "lambda_con", "layers", "layer_channels", "clusters"}
    | {"heads", "importance", "padding", "max_angle", "flip_probability"},
    "ssco": {"lambda_co", "lambda_sc", "students", "gamma", "alpha", "confidence"}
    | {"unconfident_weight", "rotation", "teacher_decay"},
    "entmin": {"lambda_unsup", "lambda_grad", "lambda_sharpen", "lambda_class", "sharpening"}
    | {"temperature", "temperature_min", "gradient_operator", "channel_reduction", "resizing"}
    | {"gradient_sum", "class_threshold", "samples", "separate_forward"}
    | HEADS,
    "dcr": {"lambda_reg", "peer", "indicators", "indicator_sampling", "mixing", "regularization"}
    | {"indicator_interval", "indicator_lr", "indicator_init", "indicator_balanced"}
    | {"batch_strong", "feature_layer"}
    | {"batch_size"},
    "selfcorrecting": {"lambda_weak", "alpha", "ancillary_features", "warmup", "separate_forward"},
    "macromicro": {"lambda_guide", "lambda_feed", "macro_decay", "separate_forward"},
    "ficklenet": {"lambda_class", "lambda_seed", "seed_layer", "seed_channels", "maps"}
    | {"seed_dropout", "threshold", "background", "separate_forward"},
}
#: Knobs of all whose values are the method's: which cases it sees, and how its weights grow.
COUNTS = {"num_partial", "num_unlabeled", "batch_full", "batch_partial", "batch_unlabeled"} | {
    "epoch_length"
}
RAMPS = {"ramps", "ramp_shape"}
#: Of white blood cells the recipes are two papers', and wrong masks count as what a method takes.
TWO_PAPERS = {"lr", "weight_decay", "lr_power", "noisy_as", "num_noisy", "batch_noisy"}
#: DCR's two streams are drawn from full and from wrong masks alone.
NOT_DCR = {"num_partial", "num_unlabeled", "weak_label", "erosion_rule", "noisy_as"} | {
    "batch_full",
    "batch_partial",
    "batch_noisy",
    "batch_unlabeled",
}
SEMI_SUPERVISED = {"uamt", "glmi", "ssco", "entmin"}
#: Components in which a method differs from its sisters, beside its objective.
OWN_PARTS = {
    "entmin": ("network_def",),
    "selfcorrecting": ("ancillary",),
    "dcr": (
        "train#dataset#data",
        "train#dataset#label_keys",
        "train#dataloader",
        "validate#key_metric",
        "validate#evaluator#branches",
    ),
}


@cache
def read(bundle: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((BUNDLES / bundle / "configs" / name).read_text())
    return content


def method(bundle: str) -> str:
    return bundle.rpartition("_")[2]


def own_knobs(bundle: str) -> set[str]:
    return OWN_KNOBS[method(bundle)] | (NOISE if bundle == "acdc_lv_dcr" else set())


def lacking(bundle: str) -> set[str]:
    return NOT_DCR if method(bundle) == "dcr" else set()


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


def of_the_image(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps but for those that make weak and wrong labels, and without these labels' keys."""
    made = ("CopyItemsd", "mixseg.transforms.NoisyLabeld", "mixseg.transforms.ScribbleByErosiond")
    steps = []
    for step in transforms:
        if step["_target_"] not in made:
            keys = step["keys"] if isinstance(step["keys"], list) else [step["keys"]]
            steps.append(step | {"keys": [k for k in keys if k not in ("weak_label", "reference")]})
    return steps


def branches_of(network: dict[str, Any]) -> int:
    return int(network.get("backbone", network).get("branches", 2))


def test_every_bundle_belongs_to_a_family() -> None:
    found = sorted(p.name for p in BUNDLES.iterdir() if (p / "configs").is_dir())
    assert found == sorted(ALL)


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_training_knobs(first: str, sister: str) -> None:
    """All have the same knobs with the same values, but for those of the method."""
    one, other = (knobs(read(name, "train.yaml"), "datalist_content") for name in (first, sister))
    own = [own_knobs(name) for name in (first, sister)]
    assert own[0] <= set(one)
    assert own[1] <= set(other)
    assert one.keys() - own[0] - lacking(sister) == other.keys() - own[1]
    shared = [k for k in one if k in other and k not in own[0] | own[1]]
    assert shared == [k for k in other if k in one and k not in own[0] | own[1]]  # their order, too
    different = {name for name in shared if one[name] != other[name]}
    allowed = COUNTS if method(sister) in SEMI_SUPERVISED else set()
    if sister.startswith("wbc_"):
        allowed = COUNTS | TWO_PAPERS
    assert different <= allowed | RAMPS


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_training_components(first: str, sister: str) -> None:
    """Data, network, optimiser, engine, handlers, validation: only the objective is another one."""
    both = []
    for name in (first, sister):
        content = read(name, "train.yaml")
        values = knobs(content, "datalist_content")
        mine = COUNTS | RAMPS | CONFKD | TWO_PAPERS
        alike = {k: v for k, v in values.items() if k not in mine}
        components = parts(content, "datalist_content")
        own = ["objective", "network_def#branches", "train#trainer#separate_forward"]
        own += OWN_PARTS.get(method(sister), ())
        components = without(components, *own)
        if method(sister) in ("dcr", "selfcorrecting"):
            steps = components["train"]["preprocessing"]
            steps["transforms"] = of_the_image(steps["transforms"])
        handlers = components["train"]["handlers"]
        if method(name) == "dcr":  # before those that write checkpoints
            assert handlers.pop(0)["_target_"] == "mixseg.objectives.dcr.InstanceIndicators"
        both.append(resolved(components, alike))
    assert both[0] == both[1]


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_inference(first: str, sister: str) -> None:
    """The pipeline of inference is the same; a network of one branch is told so."""
    one, other = (read(name, "inference.yaml") for name in (first, sister))
    heads = HEADS if method(sister) == "entmin" else set()
    assert heads <= set(other)
    assert list(one) == [name for name in other if name not in heads]
    ignored = ["branch", "network_def" if heads else "network_def#branches"]
    assert without(one, *ignored) == without(other, *ignored, *heads)
    single = method(sister) != "decoupled"
    dual = "teacher" if sister == "wbc_decoupled" else "student"
    assert other["branch"] == ("main" if single else dual)
    for name in ("train.yaml", "inference.yaml"):
        assert branches_of(read(sister, name)["network_def"]) == (1 if single else 2), name


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_evaluation(first: str, sister: str) -> None:
    """What is scored and how is the same; the report states the method's own knobs, too."""
    one, other = (read(name, "evaluate.yaml") for name in (first, sister))
    both = []
    for name, content in ((first, one), (sister, other)):
        copied = yaml.safe_load(yaml.safe_dump(content))
        if method(sister) == "dcr":  # whose objective needs the training data
            branches = copied.pop("evaluated_branches")
            assert branches == ["main"] or name == first
        report = next(h for h in copied["validate#handlers"] if "configuration" in h)
        stated = report.pop("configuration")
        assert all(value == f"@{key}" for key, value in stated.items())
        known = set(knobs(read(name, "train.yaml"), "datalist_content"))
        assert own_knobs(name) | COUNTS - lacking(name) | RAMPS <= set(stated)
        assert set(stated) <= known | {"split"}
        both.append((copied, set(stated) - own_knobs(name) - lacking(sister)))
    assert both[0] == both[1]


@pytest.mark.parametrize(("first", "sister"), SISTERS)
@pytest.mark.parametrize(
    "name", ["LICENSE", "configs/logging.conf", "configs/multi_gpu_train.yaml"]
)
def test_files_that_are_the_same(first: str, sister: str, name: str) -> None:
    files = [BUNDLES / bundle / name for bundle in (first, sister)]
    if sister == "acdc_lv_dcr" and name.endswith(".yaml"):  # its comment has other sizes
        assert read(first, files[0].name) == read(sister, files[1].name)
    else:
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_metadata(first: str, sister: str) -> None:
    one, other = (read(name, "metadata.json") for name in (first, sister))
    texts = {"name", "task", "description", "references", "label_classes", "version", "changelog"}
    assert one.keys() == other.keys()
    assert {k for k in one if one[k] != other[k]} <= texts
    assert one["name"] != other["name"]


@pytest.mark.parametrize("bundle", ALL)
def test_training_and_inference_agree(bundle: str) -> None:
    assert check_shared(BUNDLES / bundle) == []


@pytest.mark.parametrize("bundle", [name for _, name in SISTERS if "decoupled" not in name])
def test_a_branch_that_does_not_exist_is_not_named(bundle: str) -> None:
    """Configurations of a network of one branch speak of no student's branch."""
    for path in (BUNDLES / bundle / "configs").glob("*.yaml"):
        values = re.sub(r"#.*", "", path.read_text())  # the networks of SSCO are students, too
        assert not re.search(r"\bstudent\b", values), path


@pytest.mark.parametrize("family", FAMILIES)
def test_data_and_recipe_of_the_semi_supervised_methods_are_one(family: str) -> None:
    chosen = [
        {k: read(name, "train.yaml")[k] for k in COUNTS | {"lr", "max_epochs"}}
        for name in FAMILIES[family]
        if method(name) in SEMI_SUPERVISED
    ]
    assert len(chosen) > 1
    assert all(values == chosen[0] for values in chosen)
    assert chosen[0]["num_partial"] == chosen[0]["batch_partial"] == 0
    # Of the white blood cells all that remain.
    assert chosen[0]["num_unlabeled"] == (None if family == "wbc" else "$5 * @num_full")


def test_data_and_recipe_of_the_rivals_on_wrong_masks_are_one() -> None:
    chosen = [
        {k: read(name, "train.yaml")[k] for k in COUNTS | TWO_PAPERS | {"max_epochs"}}
        for name in FAMILIES["wbc"]
        if method(name) in WRONG_MASKS
    ]
    assert len(chosen) == len(WRONG_MASKS)
    assert all(values == chosen[0] for values in chosen)
    dcr = read("wbc_dcr", "train.yaml")
    assert {k: v for k, v in chosen[0].items() if k in dcr} == {
        k: dcr[k] for k in chosen[0] if k in dcr
    }
    # As many pictures a step as a stream of DCR has.
    assert chosen[0]["batch_full"] + chosen[0]["batch_noisy"] == dcr["batch_size"]


@pytest.mark.parametrize("name", FAMILIES["wbc"])
def test_the_larger_network_is_the_same_for_all(name: str) -> None:
    """deeplab.yaml changes the network and what belongs to it, nothing of data or recipe."""
    overlay = read(name, "deeplab.yaml")
    train = read(name, "train.yaml")
    own = {"seed_layer", "seed_channels", "ancillary_features"} | HEADS
    assert set(overlay) - own <= {"features", "dropout", "network_def", "branch"}
    network = overlay["network_def"].get("backbone", overlay["network_def"])
    first = read("wbc_single", "deeplab.yaml")["network_def"]
    ignored = ("branches", "branch", "out_channels")
    assert without(network, *ignored) == without(first, *ignored)
    assert branches_of(overlay["network_def"]) == branches_of(train["network_def"])
    assert first["_target_"] == "mixseg.networks.DualBranchDeepLab"


@pytest.mark.parametrize("bundle", ALL)
def test_every_knob_is_read(bundle: str) -> None:
    content = read(bundle, "train.yaml")
    for knob in knobs(content, "datalist_content"):
        rest = yaml.safe_dump({name: value for name, value in content.items() if name != knob})
        assert re.search(rf"@{knob}\b", rest), knob
