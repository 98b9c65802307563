"""``mixseg new``: what it measures, writes and refuses."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from mixseg.apps.bundle.find import refuse_changed
from mixseg.apps.plan.measure import measure
from mixseg.apps.plan.writing import find_template
from mixseg.cli.main import app
from mixseg.configuration.loading import load


def run(*words: object) -> Result:
    names = ["new", *map(str, words), "--quiet", "--device", "cpu", "--memory", "4"]
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, names)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, 6, 1]) if affine is None else affine), path)
    return str(path)


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    """A datalist of three classes; its entries' files exist or not."""
    content = {"classes": ["background", "a", "b"], "unlabeled": 3, "training": [], **splits}
    path = folder / "datalist.json"
    path.write_text(json.dumps(content))
    return path


def volume(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)
    label = np.zeros(shape, np.uint8)
    label[2:5, 2:5], label[6:8, 6:8] = 1, 2
    return image, label


def case(folder: Path, name: str, kind: str = "full", **changes: Any) -> dict[str, Any]:
    image, label = volume((16, 12, 4), len(name))
    if kind == "partial":
        label[:] = np.where(label > 0, label, 3)
    entry: dict[str, Any] = {"case_id": name, "supervision": kind}
    entry["image"] = save(folder / f"{name}.nii.gz", image)
    if kind != "none":
        entry["label"] = save(folder / f"{name}_label.nii.gz", label)
    return entry | changes


def garbage(folder: Path, name: str) -> str:
    path = folder / name
    path.write_bytes(b"not an image")
    return str(path)


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    """Two full cases, one partial one, two for validation; thick slices."""
    return write(
        tmp_path,
        training=[case(tmp_path, n) for n in ("c1", "c2")] + [case(tmp_path, "c3", "partial")],
        validation=[case(tmp_path, n) for n in ("c4", "c5")],
    )


# --- what is measured


def test_facts_in_anatomical_axes(tmp_path: Path) -> None:
    # Array axes run to superior, left, anterior: stored sizes (10, 20, 30), voxels 5, 1, 2 mm.
    affine = np.array([[0, -1, 0, 0], [0, 0, 2, 0], [5, 0, 0, 0], [0, 0, 0, 1.0]])
    image, label = volume((10, 20, 30))
    label[label == 2] = 0
    entry = {"case_id": "a", "supervision": "full", "erode": False, "patient_id": "a"}
    entry |= {"image": save(tmp_path / "a.nii", image, affine)}
    entry |= {"label": save(tmp_path / "al.nii", label, affine)}
    other = {**entry, "case_id": "b", "supervision": "partial", "patient_id": "b"}
    scribble = np.full_like(label, 3)
    scribble[0] = 0
    other["label"] = save(tmp_path / "bl.nii", scribble, affine)
    facts = measure([entry, other], ["background", "a", "b"], 3)
    assert facts.shape == (20, 30, 10)
    assert facts.spacing == (1, 2, 5)
    assert facts.sizes == (("full", (20, 30, 10)), ("partial", (20, 30, 10)))
    assert (facts.full, facts.partial, facts.channels, facts.pictures) == (1, 1, 1, False)
    assert facts.seen == {0, 1}
    assert facts.unseen == ["b"]
    assert facts.background_drawn
    assert not facts.eroded


def test_intensities_of_images_and_of_objects(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 2), np.int16)
    image[0], image[1] = -1000, 60
    image[1, 0] = 40
    label = (image > 0).astype(np.uint8)
    entry = {"case_id": "a", "supervision": "full", "erode": False, "patient_id": "a"}
    entry |= {
        "image": save(tmp_path / "a.nii", image),
        "label": save(tmp_path / "l.nii", label),
    }
    seen = measure([entry], ["background", "a"], 2).intensities
    assert (seen.lowest, seen.integer, seen.byte) == (-1000, True, False)
    # 8 voxels of −1000, 6 of 60, 2 of 40 and 16 of 0.
    mean = (8 * -1000 + 6 * 60 + 2 * 40) / 32
    assert seen.mean == pytest.approx(mean)
    square = (8 * 1e6 + 6 * 3600 + 2 * 1600) / 32
    assert seen.sd == pytest.approx(math.sqrt(square - mean**2))
    assert seen.objects is not None
    assert seen.objects[:2] == (40, 60)
    assert seen.objects[2:] == pytest.approx((55, math.sqrt((6 * 25 + 2 * 225) / 8)))


@pytest.mark.parametrize(
    ("specks", "single"),
    [([], True), ([(0, 0, 0)], True), ([(0, y, 0) for y in range(8)], False)],
)
def test_one_object_a_class(tmp_path: Path, specks: list[Any], single: bool) -> None:
    image = np.zeros((12, 12, 6), np.int16)
    label = np.zeros(image.shape, np.uint8)
    # 50 voxels that meet at a corner, as one object may: one speck is 2 %, eight are 14 %.
    label[2:5, 2:5, 1:3], label[5:9, 5:9, 3:5] = 1, 1
    for place in specks:
        label[place] = 1
    entry = {"case_id": "a", "supervision": "full", "erode": False, "patient_id": "a"}
    entry |= {"image": save(tmp_path / "a.nii", image)}
    entry |= {"label": save(tmp_path / "l.nii", label)}
    assert measure([entry], ["background", "a"], 2).single == single


def test_nothing_but_training_labels_is_opened(tmp_path: Path) -> None:
    bad = {"image": garbage(tmp_path, "x.nii.gz"), "label": garbage(tmp_path, "y.nii.gz")}
    datalist = write(
        tmp_path,
        training=[
            case(tmp_path, "c1"),
            # Its mask would be eroded; its scribble-to-be says nothing yet.
            case(tmp_path, "c2", label=garbage(tmp_path, "mask.nii.gz")),
            {**bad, "case_id": "c3", "supervision": "none"},
        ],
        validation=[{**bad, "case_id": n, "supervision": "full"} for n in ("v1", "v2")],
        test=[{**bad, "case_id": "c5", "supervision": "full"}],
    )
    result = run("own", "--datalist", datalist, "--output", tmp_path, "--num-full", 1)
    assert result.exit_code == 0, result.output
    train = yaml.safe_load((tmp_path / "own/configs/train.yaml").read_text())
    assert (train["num_full"], train["num_partial"]) == (1, 1)


def test_a_damaged_training_image_is_named(tmp_path: Path) -> None:
    image = garbage(tmp_path, "x.nii.gz")
    datalist = write(tmp_path, training=[case(tmp_path, "c1", image=image)])
    result = run("own", "--datalist", datalist, "--output", tmp_path)
    assert result.exit_code == 1
    assert f"{image} (case c1): the image cannot be read" in result.output
    assert "'mixseg validate' lists all faults" in result.output
    assert not (tmp_path / "own").exists()


def test_images_of_two_kinds_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "gray.png", tmp_path / "rgb.png"]
    for path, shape in zip(paths, ((8, 8), (8, 8, 3)), strict=True):
        Image.fromarray(np.zeros(shape, np.uint8)).save(path)
    common = {"supervision": "full", "erode": False, "patient_id": "a", "label": str(paths[0])}
    items = [{**common, "case_id": path.stem, "image": str(path)} for path in paths]
    with pytest.raises(ValueError, match=r"rgb.png: the image has 3 channels, .*gray.png has 1"):
        measure(items, ["background", "a"], 2)
    items[1] |= {"image": save(tmp_path / "v.nii", np.ones((4, 4, 4), np.uint8))}
    with pytest.raises(ValueError, match=r"v.nii: the image has 3 axes, .*gray.png has 2"):
        measure(items, ["background", "a"], 2)


# --- what is written


def options(datalist: Path, *more: object) -> list[object]:
    return ["own", "--datalist", datalist, "--output", datalist.parent, *more]


def test_the_files_of_a_bundle(simple: Path) -> None:
    result = run(*options(simple))
    assert result.exit_code == 0, result.output
    bundle = simple.parent / "own"
    written = sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())
    assert written == [
        "LICENSE",
        "configs/evaluate.yaml",
        "configs/inference.yaml",
        "configs/logging.conf",
        "configs/metadata.json",
        "configs/multi_gpu_train.yaml",
        "configs/train.yaml",
        "docs/README.md",
        "docs/data_license.txt",
    ]
    assert "slices are 6.0 times as thick as their pixels are wide" in result.output
    assert result.output.endswith(f"  mixseg train {bundle}\n")


def test_a_bundle_written_here_does_not_come_from_elsewhere(
    simple: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run(*options(simple))
    refuse_changed(simple.parent / "own")
    assert not caplog.records
    with (simple.parent / "own" / "configs" / "train.yaml").open("a") as file:
        file.write("another: 1\n")
    refuse_changed(simple.parent / "own")
    assert "'mixseg verify' checks it without running it" in caplog.text


def test_settings_change_and_comments_stay(simple: Path) -> None:
    run(*options(simple))
    own = (simple.parent / "own/configs/train.yaml").read_text()
    template = (find_template("mixed", 2) / "configs/train.yaml").read_text()
    one, other = yaml.safe_load(own), yaml.safe_load(template)
    assert list(one) == list(other)
    changed = {name for name in one if one[name] != other[name]}
    assert changed == {
        *("datalist", "num_full", "num_partial", "weak_label", "target_classes", "class_names"),
        *("source_classes", "orientation", "slice_size", "crop_size", "spatial_size"),
        *("val_interval", "checkpoint_interval"),
    }
    assert one["datalist"] == str(simple)
    assert one["class_names"] == one["source_classes"] == ["background", "a", "b"]
    # From the first component on, nothing is touched.
    assert own[own.index("num_classes:") :] == template[template.index("num_classes:") :]
    for line in template[template.index("imports:") : template.index("num_classes:")].split("\n"):
        name = line.partition(":")[0]
        # Chosen as they were, with another reason.
        again = {"dataset_dir", "in_channels", "normalization", "batch_full", "batch_partial"}
        again |= {"free_negatives", "features", "epoch_length", "max_epochs", "keep_component"}
        if name not in changed | again:
            assert f"\n{line}\n" in own, line
    assert re.search(r"^num_partial: 1 {6,}# further cases, with the labels that the", own, re.M)
    assert re.search(r"^free_negatives: auto +# no stroke marks background", own, re.M)
    for text in ("ACDC", "left ventricle", "Set-3", "hand; 'erosion'"):
        assert text not in own[: own.index("num_classes:")]


def test_training_and_inference_agree(simple: Path) -> None:
    run(*options(simple))
    configs = simple.parent / "own/configs"
    train, inference = load(configs / "train.yaml"), load(configs / "inference.yaml")
    own = {"handlers", "initialize", "run", "network", "output_dir"}
    shared = set(train) & set(inference) - own
    assert {"features", "orientation", "normalization", "slice_size", "class_names"} <= shared
    for name in shared:
        if not isinstance(train[name], dict):
            assert train[name] == inference[name], name
    assert inference["output_postfix"] == "seg"


def test_metadata(simple: Path) -> None:
    run(*options(simple))
    metadata = json.loads((simple.parent / "own/configs/metadata.json").read_text())
    assert metadata["name"] == "own"
    assert metadata["label_classes"].endswith(
        "0 is background, 1 is a, 2 is b; in training labels 3 is unlabeled"
    )
    formats = metadata["network_data_format"]
    assert formats["inputs"]["image"]["num_channels"] == 1
    assert formats["outputs"]["pred"]["num_channels"] == 3
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "a", "2": "b"}
    for words in ("ACDC", "ventricle", "cardiac"):
        assert words not in json.dumps(metadata)


def test_the_card_lists_every_setting_and_the_license_is_a_form(simple: Path) -> None:
    run(*options(simple))
    bundle = simple.parent / "own"
    card = (bundle / "docs/README.md").read_text()
    settings = yaml.safe_load((bundle / "configs/train.yaml").read_text())
    names = list(settings)[
        list(settings).index("bundle_root") : list(settings).index("num_classes")
    ]
    listed = re.findall(r"^\| `(\w+)` \| `(.+?)` \| \S", card, re.MULTILINE)
    # All but the place of the data on this machine.
    assert sorted(name for name, _ in listed) == sorted({*names} - {"datalist"})
    assert str(simple.parent) not in card
    assert dict(listed)["num_full"] == "2"
    assert "Training cases: 2 with full masks and 1 with partial labels" in card
    license = (bundle / "docs/data_license.txt").read_text()
    assert license.startswith("To be filled in by the author of this bundle")


def test_the_lower_bound(tmp_path: Path) -> None:
    cases = [case(tmp_path, name) for name in ("c1", "c2", "c3", "c4")]
    result = run(*options(write(tmp_path, training=cases[:2], validation=cases[2:])))
    assert "the bundle trains the lower bound" in result.output
    assert "--num-full and --num-partial" in result.output
    train = load(tmp_path / "own/configs/train.yaml")
    assert (train["num_partial"], train["batch_full"], train["batch_partial"]) == (0, 16, 0)
    assert "this is the lower bound" in (tmp_path / "own/docs/README.md").read_text()


def test_scribbles_of_objects_and_background_do_without_full_masks(tmp_path: Path) -> None:
    scribble = np.full((16, 12, 4), 3, np.uint8)
    scribble[3], scribble[7], scribble[10] = 1, 2, 0
    label = save(tmp_path / "s.nii.gz", scribble)
    entry = case(tmp_path, "c1", "partial", label=label)
    datalist = write(tmp_path, training=[entry])
    result = run(*options(datalist))
    assert result.exit_code == 0, result.output
    train = load(tmp_path / "own/configs/train.yaml")
    assert (train["num_full"], train["num_partial"]) == (0, 1)
    assert (train["batch_full"], train["batch_partial"]) == (0, 16)


def test_hand_drawn_scribbles_are_taken_where_all_have_one(tmp_path: Path) -> None:
    cases = [case(tmp_path, name) for name in ("c1", "c2", "c3")]
    scribble = np.full((16, 12, 4), 3, np.uint8)
    scribble[3], scribble[10] = 1, 0
    for entry in cases[1:3]:
        entry["scribble"] = save(tmp_path / f"{entry['case_id']}_s.nii.gz", scribble)
    datalist = write(tmp_path, training=cases[:3])
    assert run(*options(datalist, "--num-full", 1)).exit_code == 0
    train = load(tmp_path / "own/configs/train.yaml")
    assert (train["weak_label"], train["num_partial"]) == ("drawn", 2)
    assert "no stroke marks background" not in (tmp_path / "own/configs/train.yaml").read_text()


def test_the_papers_method(simple: Path) -> None:
    assert run(*options(simple, "--from", "confkd")).exit_code == 0
    bundle = simple.parent / "own"
    text = (bundle / "configs/train.yaml").read_text()
    train, inference = load(bundle / "configs/train.yaml"), load(bundle / "configs/inference.yaml")
    template = (find_template("confkd", 2) / "configs/train.yaml").read_text()
    assert (
        text[text.index("datalist_content:") :] == template[template.index("datalist_content:") :]
    )
    # 3,000 iterations, half of them before the entropy is whole.
    assert (train["num_partial"], train["lambda_w"]) == (1, 1)
    assert train["ramps"] == {"lambda_ent": 1500}
    assert inference["branch"] == "student"
    assert text.startswith("# ConfKD for a, b on slices of volumes: a teacher learns from full")
    assert "Confident students become masters" in (bundle / "docs/README.md").read_text()


def test_the_lower_bound_of_the_papers_method(tmp_path: Path) -> None:
    datalist = write(tmp_path, training=[case(tmp_path, name) for name in ("c1", "c2")])
    assert "the teacher alone" in run(*options(datalist, "--from", "confkd")).output
    configs = tmp_path / "own/configs"
    train, inference = load(configs / "train.yaml"), load(configs / "inference.yaml")
    assert [train[f"lambda_{n}"] for n in ("w", "kd", "ent")] == [0, 0, 0]
    assert (train["num_partial"], train["batch_partial"]) == (0, 0)
    assert inference["branch"] == "teacher"


def test_classes_that_no_label_shows_are_told(tmp_path: Path) -> None:
    cases = [case(tmp_path, "c1")]
    empty = np.zeros((16, 12, 4), np.uint8)
    empty[3] = 1
    cases[0]["label"] = save(tmp_path / "one.nii.gz", empty)
    result = run(*options(write(tmp_path, training=cases)))
    assert result.exit_code == 0
    assert "note: no training label shows b: the network cannot learn" in result.output


# --- what is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-bundle", "may hold letters, digits and _ alone"),
        ("2d_cells", "must begin with a letter: choose another"),
        ("cell_detection", "'detection', to which MONAI Label gives a meaning"),
        ("DeepGrow_cells", "'deepgrow', to which MONAI Label gives a meaning"),
        ("cells_v2", "holds '_v', where MONAI looks for the version"),
    ],
)
def test_names(simple: Path, name: str, message: str) -> None:
    result = run(name, "--datalist", simple, "--output", simple.parent)
    assert result.exit_code == 1
    assert message in result.output
    assert not (simple.parent / name).exists()


def test_a_folder_in_use(simple: Path) -> None:
    folder = simple.parent / "own"
    (folder / "models").mkdir(parents=True)
    (folder / "models/model.pt").write_bytes(b"weights")
    result = run(*options(simple))
    assert result.exit_code == 1
    assert f"'{folder}' is not empty; give --overwrite to replace its files" in result.output
    result = run(*options(simple, "--overwrite"))
    assert result.exit_code == 0
    assert f"{folder / 'models/model.pt'} is of the earlier files: train again" in result.output
    assert (folder / "models/model.pt").read_bytes() == b"weights"


def test_an_empty_folder_is_taken(simple: Path) -> None:
    (simple.parent / "own").mkdir()
    assert run(*options(simple)).exit_code == 0


@pytest.mark.parametrize(
    ("words", "kinds", "message"),
    [
        ((), ["none"], "no training case has a label; annotate a few cases"),
        ((), [], "no training case has a label; annotate a few cases"),
        ((), ["partial"], "no training case has a full mask and no stroke marks background"),
        (("--num-full", 0), ["full"], "no training case has a full mask and no stroke marks back"),
        (("--from", "confkd"), ["partial"], "no training case has a full mask, and the teacher"),
        (("--from", "confkd"), [], "no training case has a full mask, and the teacher learns"),
    ],
)
def test_labels_that_teach_nothing(
    tmp_path: Path, words: tuple[object, ...], kinds: list[str], message: str
) -> None:
    training = [case(tmp_path, f"c{i}", kind) for i, kind in enumerate(kinds)]
    datalist = write(tmp_path, training=training)
    result = run(*options(datalist, *words))
    assert result.exit_code == 1
    assert f"{datalist}: {message}" in result.output


def test_a_full_mask_is_needed_where_values_decide(tmp_path: Path) -> None:
    entry = case(tmp_path, "c1", "partial")
    del entry["supervision"]
    datalist = write(tmp_path, training=[entry])
    result = run(*options(datalist, "--from", "confkd"))
    assert result.exit_code == 1
    assert "no training case has a full mask" in result.output


def test_a_single_case_does_not_choose_the_weights(tmp_path: Path) -> None:
    datalist = write(tmp_path, training=[case(tmp_path, "c1")], validation=[case(tmp_path, "v")])
    result = run(*options(datalist))
    assert result.exit_code == 1
    assert f"{datalist}: the validation split holds one case, 'v'" in result.output
    assert "move this one to 'training'" in result.output


def test_what_each_case_is_for_is_said(tmp_path: Path) -> None:
    kinds = ["full"] * 3 + ["partial"] * 2 + ["none"]
    training = [case(tmp_path, f"c{i}", kind) for i, kind in enumerate(kinds)]
    result = run(*options(write(tmp_path, training=training)))
    assert result.exit_code == 0, result.output
    for line in (
        "training: 3 with full masks and 2 with partial labels",
        "validation: none; the last averaged weights are kept",
        "cross-validation tests each full mask once: mixseg train BUNDLE --folds 3",
        "test: none",
        "left out: 1 without a label, from which this method does not learn",
    ):
        assert f"\n  {line}" in result.output
    result = run(*options(write(tmp_path, training=training), "--num-full", 2, "--overwrite"))
    assert "training: 2 with full masks and 3 with partial labels" in result.output
    assert "--folds" not in result.output


def test_a_missing_datalist(tmp_path: Path) -> None:
    result = run("own", "--datalist", tmp_path / "absent.json", "--output", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path / 'absent.json'} cannot be read (No such file" in result.output
