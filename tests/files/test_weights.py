"""Files of weights that are damaged, of another kind, or hostile."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mixseg.files.weights import read_weights

WEIGHTS = {"a": torch.arange(600.0), "b": torch.ones(2, 3)}


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save(WEIGHTS, path)
    return path


def test_weights_come_back_from_both_formats_of_torch(file: Path, tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in (file, tmp_path / "old.pt"):
        read = read_weights(path)
        assert all(torch.equal(read[name], value) for name, value in WEIGHTS.items())


def test_a_flipped_bit_of_a_weight_is_refused(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = content.index(WEIGHTS["a"].numpy().tobytes())
    content[place + 1200] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt' cannot be read .* damaged.* again"):
        read_weights(file)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\3\4"]
)
def test_what_is_no_file_of_weights_gets_no_advice_to_trust_it(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt' cannot be read as weights: ") as caught:
        read_weights(file)
    assert "weights_only" not in str(caught.value)
    assert "again" in str(caught.value)


def test_a_file_cut_in_two_is_refused(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        read_weights(file)


def test_objects_are_not_loaded(file: Path, tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    for path, protocol in ((file, None), (tmp_path / "old.pt", 2)):
        if protocol is None:
            torch.save({"a": Evil(mark)}, path)
        else:
            path.write_bytes(pickle.dumps(Evil(mark), protocol))
        with pytest.raises(ValueError, match=r"which are not loaded") as caught:
            read_weights(path)
        assert "weights_only" not in str(caught.value)
    assert not mark.exists()


def test_a_torchscript_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    with pytest.raises(ValueError, match=r"is a TorchScript.* --exported"):
        read_weights(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "not finite in b"),
        (torch.tensor([1e300], dtype=torch.double), "not finite in b"),
        (torch.tensor([1 + 2j]), "sparse, complex, empty or integer tensors in b"),
        (torch.eye(3).to_sparse(), "sparse, complex, empty or integer tensors in b"),
        (torch.empty(2, device="meta"), "sparse, complex, empty or integer tensors in b"),
    ],
)
def test_values_that_a_network_would_change_are_refused(
    file: Path, value: torch.Tensor, message: str
) -> None:
    torch.save({"a": torch.ones(1), "b": value}, file)
    with pytest.raises(ValueError, match=message):
        read_weights(file)


def test_a_zip_of_something_else_is_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_weights(file)


def test_integers_are_counts_but_never_weights(file: Path) -> None:
    counts = {
        "norm.num_batches_tracked": torch.tensor(3),
        "relative_position_index": torch.arange(2),
    }
    torch.save({**WEIGHTS, **counts}, file)
    assert read_weights(file).keys() == {*WEIGHTS, *counts}
    torch.save({**WEIGHTS, "head.weight": torch.ones(2, dtype=torch.int8)}, file)
    with pytest.raises(ValueError, match=r"integer tensors in head\.weight"):
        read_weights(file)
