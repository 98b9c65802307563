"""``mixseg propose``: masks of ``mixseg predict`` as labels, the true ones unopened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from mixseg.apps.self_train.plan import Classes
from mixseg.cli.main import app
from mixseg.data.datalist import Datalist
from mixseg.data.phantom.dataset import write_phantom
from mixseg.networks import DualBranchUNet
from mixseg.transforms import SelectClasses

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
FEATURES = [2, 4, 8]
CASES = ["patient002_frame01", "patient002_frame10", "patient003_frame01", "patient003_frame10"]


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "600"}).invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def make_run(
    as_run: Callable[..., Path], weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A run on one patient with full masks and two partially labeled ones."""

    def make(weights: Path = weights, **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp("run") / "run"
        sizes = {"features": FEATURES, "slice_size": [32, 32], "num_full": 1, "num_partial": 2}
        return as_run(BUNDLE, folder, weights, **sizes | settings)

    return make


@pytest.fixture(scope="module")
def trained(make_run: Callable[..., Path]) -> Path:
    return make_run()


def propose(data: Path, output: Path, trained: Path, *more: object) -> Result:
    words: list[object] = ["propose", trained, "--data", data, "-o", output, "--quiet"]
    return run(*words, "--device", "cpu", *more)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def proposal(output: Path, case: str) -> Path:
    return output / "proposals" / f"{case}.nii.gz"


def read(data: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((data / "datalist.json").read_text())
    return content


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training patients of two frames; the masks of the last two are not masks."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, 5, num_validation=1, num_test=1)
    for case in CASES:
        (folder / case[:10] / f"{case}_gt.nii.gz").write_text("nobody may read this")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network whose student and teacher predict both classes."""
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.manual_seed(3)
    torch.save(DualBranchUNet(features=FEATURES).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def predicted(
    phantom: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """Case → mask of ``mixseg predict``, 0 and 1."""
    masks = {}
    for patient in sorted({case[:10] for case in CASES}):
        output = tmp_path_factory.mktemp(patient)
        words = ["predict", trained, "-i", phantom / patient, "-o", output, "--device", "cpu"]
        result = run(*words, "--no-preview", "--quiet")
        assert result.exit_code == 0, result.output
        masks |= {c: voxels(output / f"{c}_LV.nii.gz") for c in CASES if c.startswith(patient)}
    assert all(0 < mask.mean() < 1 for mask in masks.values())
    return masks


def drawn_copy(phantom: Path, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The data with scribbles on some voxels: 3 and 0 in one plane, 1 in the next, else 4."""
    data = folder / "drawn"
    shutil.copytree(phantom, data)
    content, scribbles = read(data), {}
    for entry in content["training"]:
        image = nib.load(data / entry["image"])
        scribble = np.full(image.shape, 4, np.uint8)
        scribble[:40, :, 0], scribble[40:80, :, 0], scribble[:, :, 1] = 3, 0, 1
        entry["scribble"] = f"{entry['case_id']}_scribble.nii.gz"
        nib.save(nib.Nifti1Image(scribble, image.affine), data / entry["scribble"])
        scribbles[entry["case_id"]] = scribble
    (data / "datalist.json").write_text(json.dumps(content))
    return data, scribbles


def test_proposals_are_the_masks_of_predict_in_the_values_of_label_files(
    phantom: Path, trained: Path, predicted: dict[str, np.ndarray], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    result = propose(phantom, output, trained)
    assert result.exit_code == 0, result.output
    for case, mask in predicted.items():
        stored = nib.load(proposal(output, case))
        np.testing.assert_array_equal(voxels(proposal(output, case)), 3 * mask)
        assert stored.get_data_dtype() == np.uint8
        image = nib.load(phantom / case[:10] / f"{case}.nii.gz")
        np.testing.assert_allclose(stored.affine, image.affine, atol=1e-6)
        # 1.5 · 1.5 · 8 = 18 mm³ a voxel, 1000 mm³ a millilitre.
        assert f"{mask.sum() * 0.018:.1f}" in result.output

    before, after = (
        Datalist.load(phantom / "datalist.json"),
        Datalist.load(output / "datalist.json"),
    )
    assert [(e.case_id, e.supervision) for e in after.training] == [
        ("patient001_frame01", "full"),
        ("patient001_frame10", "full"),
        *((case, "noisy") for case in CASES),
    ]
    resolved = before.resolve()
    for split in ("validation", "test"):
        assert getattr(after, split) == getattr(resolved, split)
    assert after.training[:2] == resolved.training[:2]
    assert (after.classes, after.unlabeled) == (before.classes, before.unlabeled)
    assert [e.image for e in after.training] == [e.image for e in resolved.training]
    assert [e.patient_id for e in after.training] == [e.patient_id for e in before.training]
    # Absolute: a relative path could meet another file below --dataset_dir.
    assert [Path(e.label or "") for e in after.training[2:]] == [
        proposal(output, case).resolve() for case in CASES
    ]
    checked = run("validate", output / "datalist.json", "--quiet")
    assert checked.exit_code == 0, checked.output
    assert "no errors" in checked.output
    assert not (output / ".unfinished").exists()


def test_what_is_finished_is_skipped_as_long_as_it_would_be_the_same(
    phantom: Path, trained: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert propose(phantom, output, trained).exit_code == 0
    datalist = (output / "datalist.json").read_bytes()
    stamps = {case: proposal(output, case).stat().st_mtime_ns for case in CASES}
    proposal(output, CASES[1]).unlink()
    (output / "datalist.json").unlink()  # as where the command was killed
    again = propose(phantom, output, trained)
    assert again.exit_code == 0
    assert "1 predicted, 3 were finished already" in again.output
    changed = [c for c in CASES if proposal(output, c).stat().st_mtime_ns != stamps[c]]
    assert changed == [CASES[1]]
    assert (output / "datalist.json").read_bytes() == datalist

    # Fewer cases of the same settings need nothing new, and the others are not counted.
    fewer = propose(phantom, output, make_run(num_partial=1))
    assert "0 predicted, 2 were finished already" in fewer.output
    assert CASES[2] not in fewer.output
    other = propose(phantom, output, trained, "--branch", "teacher")
    assert "4 predicted\n" in other.output


def test_the_branch_is_the_runs_own_unless_another_is_asked_for(
    phantom: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    """That of a lower bound's record is its teacher."""
    lower_bound, masks = make_run(branch="teacher"), {}
    for name in ("own", "teacher", "student"):
        more = () if name == "own" else ("--branch", name)
        assert propose(phantom, tmp_path / name, lower_bound, *more).exit_code == 0
        masks[name] = voxels(proposal(tmp_path / name, CASES[0]))
    np.testing.assert_array_equal(masks["own"], masks["teacher"])
    assert (masks["student"] != masks["teacher"]).any()


def test_stored_scribbles_replace_the_prediction(
    phantom: Path,
    trained: Path,
    make_run: Callable[..., Path],
    predicted: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    data, scribbles = drawn_copy(phantom, tmp_path)
    content = read(data)
    # Its annotator looked for the left ventricle alone: a 0 says nothing there.
    content["training"][-1]["annotated_classes"] = [3]
    (data / "datalist.json").write_text(json.dumps(content))
    drawn = make_run(weak_label="drawn")
    result = propose(data, tmp_path / "out", drawn, "--keep-scribbles")
    assert result.exit_code == 0, result.output
    for case, mask in predicted.items():
        expected = 3 * mask
        expected[scribbles[case] == 3] = 3
        if case != CASES[-1]:
            expected[scribbles[case] <= 1] = 0  # the right ventricle is not a class of the bundle
        np.testing.assert_array_equal(voxels(proposal(tmp_path / "out", case)), expected)
    proposed = read(tmp_path / "out")["training"][2:]
    assert all(not {"scribble", "annotated_classes"} & set(entry) for entry in proposed)

    # Without the option, and where the scribbles would come from eroded masks, none is used.
    for name, one, *more in (("without", drawn), ("eroded", trained, "--keep-scribbles")):
        output = tmp_path / name
        assert propose(data, output, one, *more).exit_code == 0
        for case, mask in predicted.items():
            np.testing.assert_array_equal(voxels(proposal(output, case)), 3 * mask)


def test_cases_that_fail_are_named_and_no_datalist_is_written(
    phantom: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    data, _ = drawn_copy(phantom, tmp_path)
    wrong = np.full((4, 4, 2), 4, np.uint8)
    nib.save(nib.Nifti1Image(wrong, np.eye(4)), data / f"{CASES[0]}_scribble.nii.gz")
    broken = data / CASES[3][:10] / f"{CASES[3]}.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    output = tmp_path / "out"
    drawn = make_run(weak_label="drawn")
    result = propose(data, output, drawn, "--keep-scribbles")
    assert result.exit_code == 1
    assert "2 of 4 cases could not be proposed, no datalist was written:" in result.output
    assert f"{CASES[0]} (" in result.output
    assert "the scribble's shape (4, 4, 2) is not the image's" in result.output
    assert f"{CASES[3]} (" in result.output
    assert "it may be truncated: copy or download it again" in result.output
    assert "2 predicted" in result.output
    assert not (output / "datalist.json").exists()
    # Fixed, the same command does what is left.
    shutil.copy(phantom / CASES[3][:10] / f"{CASES[3]}.nii.gz", broken)
    result = propose(data, output, drawn)
    assert result.exit_code == 0, result.output


def test_empty_proposals_are_counted(
    phantom: Path, weights: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    state = torch.load(weights, weights_only=True)
    state["student.head.weight"].zero_()
    state["student.head.bias"].copy_(torch.tensor([1.0, -1.0]))  # background everywhere
    torch.save(state, tmp_path / "background.pt")
    result = propose(phantom, tmp_path / "out", make_run(tmp_path / "background.pt"))
    assert result.exit_code == 0
    assert "note: 4 of 4 proposals are empty" in result.output
    assert not voxels(proposal(tmp_path / "out", CASES[0])).any()


def test_values_of_label_files_are_read_back_as_the_classes_of_the_bundle() -> None:
    mask = np.array([[0, 1, 2]])
    classes = Classes(target=(1, (2, 3)), source=4, unlabeled=4)
    assert classes.values.tolist() == [0, 1, 2]
    read_back = SelectClasses(classes.target, classes.source)(classes.values[mask])
    np.testing.assert_array_equal(read_back, mask)
    assert Classes((3, 1), 4, 4).values[mask].tolist() == [[0, 3, 1]]


def test_messages(phantom: Path, make_run: Callable[..., Path], tmp_path: Path) -> None:
    missing = run("propose", "no_such", "--data", phantom, "-o", tmp_path / "out")
    assert missing.exit_code == 1
    assert "there is no bundle 'no_such': give a bundle's folder" in missing.output
    copy = tmp_path / "acdc_lv_confkd"
    shutil.copytree(BUNDLE, copy, ignore=shutil.ignore_patterns("models", "large_files*"))
    untrained = run("propose", copy, "--data", phantom, "-o", tmp_path / "out")
    assert untrained.exit_code == 1
    assert f"'{copy}' has no weights:" in untrained.output

    (tmp_path / "file").write_text("")
    none = tmp_path / "none.pt"
    for more, settings, message in (
        (("-o", tmp_path / "file" / "out"), {}, "choose another folder with -o"),
        (("-o", phantom), {}, f"'{phantom}' is the folder of a data set: choose another -o"),
        (("--weights", none), {}, f"there is no '{none}'"),
        (("--data", none), {}, f"there is no '{none}': give the folder of the data with --data"),
        ((), {"num_partial": 0}, "there is nothing to propose: give a run that was trained on"),
        ((), {"num_full": 9}, "num_full is 9, but the training split has 3 fully labeled"),
        ((), {"unlabeled_value": 0}, "unlabeled_value is 0, a class that proposals need"),
        ((), {"features": [2, 4, 6]}, "do not fit the network of inference.yaml"),
    ):
        result = propose(phantom, tmp_path / "out", make_run(**settings), *more)
        assert result.exit_code == 1, more
        assert message in result.output, result.output
    assert (phantom / "datalist.json").is_file()
