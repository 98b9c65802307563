"""``mixseg export`` writes files that agree with the network, and none that do not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from mixseg.apps.pack import export as module
from mixseg.cli.export import export
from mixseg.configuration.settings import read_settings
from mixseg.configuration.yaml_text import set_values
from mixseg.networks import DualBranchDynUNet, DualBranchUNet, ExportedNetwork

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
FEATURES = [2, 4, 8]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.save(DualBranchUNet(features=FEATURES).state_dict(), path)
    return path


def invoke(*arguments: object) -> tuple[int, str]:
    app = typer.Typer()
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("export", context_settings=settings)(export)
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.output


def narrow(weights: Path, output: Path) -> list[object]:
    options = {"--weights": weights, "--output": output, "--features": json.dumps(FEATURES)}
    return [BUNDLE, *(word for option in options.items() for word in option)]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ts", "onnx"])
@pytest.mark.parametrize("branch", ["student", "ensemble"])
def test_the_file_holds_the_branch_and_takes_other_sizes(
    kind: str, branch: str, weights: Path, tmp_path: Path
) -> None:
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    output = tmp_path / "out" / f"model.{kind}"
    status, text = invoke(*narrow(weights, output), "--format", kind, f"--branch={branch}")
    assert status == 0, text
    # Divisor 4: 2·8·12 + 3·16·8 + 28·28 voxels were compared.
    assert re.search(r"differ by at most \d\.\de[+-]0\d .* in 0 of 1,360 voxels", text)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    network = DualBranchUNet(features=FEATURES)
    network.load_state_dict(torch.load(weights, weights_only=True))
    image = torch.randn(2, 1, 20, 24)
    expected = network.eval()(image, branch)
    torch.testing.assert_close(ExportedNetwork(output)(image), expected, rtol=1e-4, atol=1e-5)


def test_a_file_that_differs_is_not_kept(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "max_difference", lambda *_: (0.5, 1, 2))
    output = tmp_path / "model.ts"
    output.write_bytes(b"the last one")
    status, text = invoke(*narrow(weights, output), "--format", "ts")
    assert status == 1
    assert "differs from the bundle's by up to 0.5, more than" in text
    assert output.read_bytes() == b"the last one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "model.ts"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--format", "ts"), "must end in .ts"),
        (("--features", "[4, 8, 16]"), "do not fit the network of"),
        (("--branch", "both"), "the network returns both branches; add --branch student"),
        (("--branch", "left"), "branch must be one of both, teacher, student, ensemble"),
        (("--color", "1"), "'--color' is neither an option nor a setting of inference.yaml"),
        (("--weights", "absent.pt"), "there is no 'absent.pt'"),
        (("--norm",), "'--norm' needs a value"),
    ],
)
def test_what_cannot_be_exported_is_said(
    more: tuple[str, ...],
    message: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    status, text = invoke(*narrow(weights, tmp_path / "model.onnx"), *more)
    assert status == 1
    assert message in text
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        # PyTorch's words for a full disk.
        (
            "unexpected pos 94656 vs 94608",
            "could not be written (unexpected pos 94656 vs 94608): if the disk is full",
        ),
        ("no kernel for this operation", "the network cannot be exported: no kernel for this"),
    ],
)
def test_a_full_disk_is_told_from_a_network_that_cannot_be_exported(
    error: str, said: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(module.torch, "save", fail)
    output = tmp_path / "out" / "model.ts"
    status, text = invoke(*narrow(weights, output), "--format", "ts", "--branch", "student")
    assert status == 1
    assert said in text
    assert not list(output.parent.iterdir())


def test_packages_that_are_missing_are_named(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else name)
    status, text = invoke(*narrow(weights, tmp_path / "model.onnx"))
    assert status == 1
    assert "ONNX files need onnxscript: pip install 'mixseg[onnx]'" in text


def test_values_of_settings_are_literals_where_they_are_some() -> None:
    known: dict[str, Any] = dict.fromkeys(("features", "norm", "padded", "dropout"))
    arguments = ["--features", "[1, 2]", "--norm=instance", "--padded", "False", "--dropout=0.1"]
    expected = {"features": [1, 2], "norm": "instance", "padded": False, "dropout": 0.1}
    assert read_settings(arguments, known) == expected


def test_strides_that_differ_between_axes(tmp_path: Path) -> None:
    configs = tmp_path / "flat" / "configs"
    configs.mkdir(parents=True)
    image = {"num_channels": 1, "spatial_shape": ["4*n", "4*n", "2*n"]}
    metadata = {"network_data_format": {"inputs": {"image": image}}}
    (configs / "metadata.json").write_text(json.dumps(metadata))
    (configs / "inference.yaml").write_text(
        "network_def:\n  _target_: mixseg.networks.DualBranchDynUNet\n  features: [2, 4, 4]\n"
        "  strides: [1, [2, 2, 1], 2]\n  branch: student\n"
    )
    network = DualBranchDynUNet(features=[2, 4, 4], strides=(1, (2, 2, 1), 2))
    assert network.size_divisor == (4, 4, 2)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    words = ["--weights", tmp_path / "model.pt", "--output", tmp_path / "model.ts"]
    status, text = invoke(configs.parent, *words, "--format", "ts")
    assert status == 0, text
    # Divisors 4, 4 and 2: 2·8·12·8 + 3·16·8·6 + 28·28·10 voxels were compared.
    assert "in 0 of 11,680 voxels" in text


def test_the_bundles_own_weights_are_exported_into_its_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundles" / "small"
    shutil.copytree(BUNDLE / "configs", bundle / "configs")
    inference = bundle / "configs" / "inference.yaml"
    inference.write_text(set_values(inference.read_text(), {"features": FEATURES}))
    (bundle / "models").mkdir()
    shutil.copy(weights, bundle / "models" / "model.pt")
    monkeypatch.chdir(tmp_path)
    status, text = invoke("small", "--format", "ts")
    assert status == 0, text
    assert "bundles/small/models/model.ts: the logits differ by at most" in text
    (tmp_path / "small.zip").touch()
    status, text = invoke("small.zip")
    assert status == 1
    assert "'small.zip' is a packed bundle: give --output, the file to write" in text


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    status, text = invoke(tmp_path)
    assert status == 1
    assert f"'{tmp_path}' is not a bundle, it has no configs/metadata.json" in text


def test_switches_are_read_in_lower_case_too() -> None:
    known: dict[str, Any] = {"padded": True, "norm": "batch"}
    arguments = ["--padded", "false", "--norm", "none"]
    assert read_settings(arguments, known) == {"padded": False, "norm": None}
