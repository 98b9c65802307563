"""Exported files against the network they were made from, and against graphs written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.utils import convert_to_onnx, convert_to_torchscript
from torch import Tensor, nn

from mixseg.engines import VolumeInferer
from mixseg.networks import DualBranchUNet, ExportedNetwork
from mixseg.networks.exported import max_difference, onnx_options


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return DualBranchUNet(spatial_dims=3, features=(2, 4, 8), branch="student").eval()


@pytest.fixture(scope="module")
def script(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "model.ts"
    example = [torch.rand(2, 1, 8, 12, 16)]
    torch.jit.save(convert_to_torchscript(network, inputs=example, use_trace=True), str(path))
    return path


@pytest.fixture(scope="module")
def onnx_file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    example = [torch.rand(2, 1, 8, 12, 16)]
    onnx.save(convert_to_onnx(network, example, use_trace=True, **onnx_options(3)), str(path))
    return path


SHAPES = [(2, 1, 8, 12, 16), (1, 1, 16, 8, 8), (3, 1, 4, 20, 12)]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["script", "onnx_file"])
def test_an_exported_file_computes_what_the_network_does(
    kind: str, network: nn.Module, request: pytest.FixtureRequest
) -> None:
    exported = ExportedNetwork(request.getfixturevalue(kind)).eval()
    for shape in SHAPES:
        image = torch.randn(shape)
        found = exported(image)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, network(image), rtol=1e-4, atol=1e-5)
        assert torch.equal(exported(image, branch="student"), found)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["script", "onnx_file"])
@pytest.mark.parametrize("whole_volume", [True, False])
def test_it_runs_in_the_inferer(
    kind: str, whole_volume: bool, network: nn.Module, request: pytest.FixtureRequest
) -> None:
    exported = ExportedNetwork(request.getfixturevalue(kind))
    inferer = VolumeInferer((8, 8, 8), whole_volume=whole_volume, sw_batch_size=3, size_divisor=4)
    image = torch.randn(1, 1, 13, 9, 8)
    found, expected = inferer(image, exported), inferer(image, network)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_another_branch_is_refused(script: Path) -> None:
    with pytest.raises(ValueError, match="holds the branch 'student', not 'teacher'"):
        ExportedNetwork(script)(torch.rand(1, 1, 8, 8, 8), branch="teacher")
    assert ExportedNetwork(script, branch="ensemble")(torch.rand(1, 1, 8, 8, 8)).shape[1] == 2


def test_a_script_of_both_branches_is_refused(tmp_path: Path) -> None:
    class Both(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return image, -image

    torch.jit.save(torch.jit.script(Both()), str(tmp_path / "model.ts"))
    exported = ExportedNetwork(tmp_path / "model.ts")
    with pytest.raises(ValueError, match="returns several outputs; export it with one branch"):
        exported(torch.rand(1, 1, 4, 4))


def write_onnx(path: Path, sides: Sequence[str | int], outputs: int = 1) -> Path:
    """logits = 2·image + 1 for one input of the given sides, the same for every output."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    names = [f"logits{i}" for i in range(outputs)]
    constants = [helper.make_tensor(n, kind, [], [v]) for n, v in (("two", 2.0), ("one", 1.0))]
    nodes = [helper.make_node("Mul", ["image", "two"], ["doubled"])]
    nodes += [helper.make_node("Add", ["doubled", "one"], [name]) for name in names]
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info("image", kind, sides)],
        [helper.make_tensor_value_info(name, kind, sides) for name in names],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), str(path))
    return path


def test_a_graph_written_by_hand(tmp_path: Path) -> None:
    exported = ExportedNetwork(write_onnx(tmp_path / "m.onnx", ["b", 1, "h", "w"]))
    image = torch.randn(2, 1, 3, 5)
    torch.testing.assert_close(exported(image), 2 * image + 1)
    # Views and other precisions arrive as contiguous float32.
    turned = image.double().transpose(2, 3)
    torch.testing.assert_close(exported(turned), (2 * turned + 1).float())


def test_a_file_with_fixed_sides_says_which(tmp_path: Path) -> None:
    exported = ExportedNetwork(write_onnx(tmp_path / "m.onnx", ["b", 1, 4, 4]))
    assert exported(torch.rand(3, 1, 4, 4)).shape == (3, 1, 4, 4)
    for shape in ((1, 1, 4, 8), (1, 1, 4), (1, 2, 4, 4)):
        message = f"takes images of shape (b, 1, 4, 4), got {shape}"
        with pytest.raises(ValueError, match=re.escape(message)):
            exported(torch.rand(shape))


def test_an_onnx_file_of_both_branches_is_refused(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", ["b", 1, "h", "w"], outputs=2)
    with pytest.raises(ValueError, match="has 1 inputs and 2 outputs"):
        ExportedNetwork(path)


@pytest.mark.parametrize("name", ["model.ts", "model.onnx"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    message = f"no exported network '{tmp_path / name}'; mixseg export makes one"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        ExportedNetwork(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no network at all", bytes(range(256)) * 40])
@pytest.mark.parametrize(("name", "kind"), [("model.ts", "TorchScript"), ("model.onnx", "ONNX")])
def test_a_spoilt_file_is_named(tmp_path: Path, name: str, kind: str, content: bytes) -> None:
    if kind == "ONNX":
        pytest.importorskip("onnxruntime")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"'{path}' cannot be read as {kind}: ")):
        ExportedNetwork(path)


def test_a_file_cut_short_is_named(script: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.ts"
    path.write_bytes(script.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=re.escape(f"'{path}' cannot be read as TorchScript: ")):
        ExportedNetwork(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in \.ts or \.onnx, got '.*model\.pt'"):
        ExportedNetwork(tmp_path / "model.pt")


def test_without_onnx_runtime_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    monkeypatch.setattr("mixseg.networks.exported.optional_import", lambda name: (None, False))
    with pytest.raises(ImportError, match=re.escape("pip install 'mixseg[onnx]'")):
        ExportedNetwork(tmp_path / "model.onnx")


class _Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(image), self.function(image)), dim=1)


def test_differences_are_counted_over_all_images() -> None:
    shapes = [(2, 1, 3, 4), (1, 1, 5, 2)]  # 24 + 10 voxels
    same, shifted = _Function(lambda x: x), _Function(lambda x: x + 0.25)
    assert max_difference(same, same, shapes) == (0.0, 0, 34)
    assert max_difference(same, shifted, shapes)[0] == pytest.approx(0.25)
    # The sign decides the class, so turning it changes every voxel's.
    difference, flipped, voxels = max_difference(same, _Function(lambda x: -x), shapes, seed=3)
    assert (flipped, voxels) == (34, 34)
    generator = torch.Generator().manual_seed(3)
    images = [torch.randn(*shape, generator=generator) for shape in shapes]
    assert difference == pytest.approx(2 * max(float(x.abs().max()) for x in images))
