"""``mixseg verify`` on packed bundles: whole ones pass, changed ones are refused and not run."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mixseg.apps.bundle.archive import sum_file, unpack
from mixseg.apps.bundle.find import refuse_changed
from mixseg.apps.bundle.sums import write_sums
from mixseg.apps.pack.checks.configs import check_files, check_packages
from mixseg.apps.pack.checks.files import (
    check_checksums,
    check_compiled,
    check_hidden_modules,
    check_weight_values,
)
from mixseg.apps.pack.checks.network import check_code, check_network
from mixseg.apps.pack.pack import pack_bundle
from mixseg.apps.pack.verify import RUNNING_CHECKS, verify_bundle
from mixseg.cli.main import app

from .packed_place import put_weights

SOURCE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of a bundle with a narrow network."""
    bundle = tmp_path_factory.mktemp("packed") / "acdc_lv_confkd"
    shutil.copytree(SOURCE, bundle)
    put_weights(bundle, features=[8, 16, 16], weak_label="drawn")
    return pack_bundle(bundle, output=bundle.parent / "dist")[0]


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    return unpack(packed, tmp_path)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of bundles goes to a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def verify(place: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify", str(place), *more], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def evil(folder: Path, trap: Path) -> None:
    """Code in every place that a check could run, and the sums of these files."""
    code = f"open({str(trap)!r}, 'w')\n"
    for name in ("mixseg/__init__.py", "mixseg/losses/__init__.py", "evil.py"):
        (folder / name).write_text(code)
    for name in ("train.yaml", "inference.yaml"):
        path = folder / "configs" / name
        path.write_text(
            f"{path.read_text()}\nowned: $open({str(trap)!r}, 'w')\n"
            "run_it: {_target_: evil.anything}\n"
        )
    (folder / "configs" / "evil.yaml").write_text("evil#argument: 1\nevil: {_target_: evil.x}\n")
    write_sums(folder)


@pytest.mark.slow
def test_a_packed_bundle_passes_as_a_zip(packed: Path) -> None:
    status, text = verify(packed, "--run")
    assert status == 0, text
    # Of 24 checks, those of the repository and of what a packed bundle has not.
    assert "all checks passed, 3 not checked" in text
    for name in ("checksums", "code inside", "weights fit", "properties", "network in and out"):
        assert next(line for line in text.splitlines() if f" {name} " in line).count(" ok ") == 1


def test_a_file_that_was_changed_is_named_and_nothing_is_run(folder: Path) -> None:
    train = folder / "configs" / "train.yaml"
    trap = folder.parent / "trap"
    text = train.read_text().replace("$import torch", f"$open('{trap}', 'w')")
    assert "trap" in text
    train.write_text(text)
    (folder / "torch.py").write_text(f"open('{trap}', 'w')\n")
    status, text = verify(folder)
    assert status == 1
    assert "failed: configs/train.yaml is not the file that was packed" in text
    assert "torch.py is not listed in SHA256SUMS" in text
    results = verify_bundle(folder, run=True)
    assert {results[name].word for name in RUNNING_CHECKS} == {"not checked"}
    assert results["weights fit"].not_checked == "nothing is run of files that were changed"
    assert not trap.exists()


def test_a_zip_that_was_changed_is_refused(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / packed.name
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("mixseg/__init__.py"):
                content += b"print('hello')\n"
            target.writestr(member, content)
    status, text = verify(path)
    assert status == 1
    assert f"'{path}' is refused, nothing was unpacked" in text
    assert "mixseg/__init__.py is not the file that was packed" in text
    shutil.copy(packed, path)
    sum_file(path).write_text(f"{'0' * 64}  {path.name}\n")
    status, text = verify(path)
    assert status == 1
    assert "does not match" in text


def test_packages_that_the_code_inside_needs_are_stated(folder: Path) -> None:
    assert check_packages(folder) == []
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    required = content["required_packages_version"]
    del required["pydantic"]
    required["mixseg"] = "0.1.0"
    required["scipy"] = "1.0"
    path.write_text(json.dumps(content))
    assert check_packages(folder) == [
        "scipy 1.0 is stated, but mixseg requires scipy>=1.11",
        "mixseg 0.1.0 is stated, but mixseg does not require mixseg",
        "pydantic is required, but not stated",
    ]


def test_files_of_a_packed_bundle(folder: Path) -> None:
    assert check_files(folder) == []
    (folder / "models" / "model.pt").unlink()
    (folder / "configs" / "metadata.schema.json").write_text(" ")
    assert check_files(folder) == [
        "models/model.pt is missing",
        "configs/metadata.schema.json is empty",
    ]


def test_the_code_inside_is_the_code_that_runs(folder: Path) -> None:
    assert check_code(folder) == []
    assert list(folder.rglob("__pycache__")) == []
    (folder / "mixseg" / "losses" / "entropy.py").write_text("raise RuntimeError('cut')\n")
    write_sums(folder)  # somebody's own, well summed
    assert check_code(folder) == ["RuntimeError: cut"]
    shutil.rmtree(folder / "mixseg" / "losses")
    # Not there at all, or from an installation that reaches into the copy.
    (fault,) = check_code(folder)
    assert re.match(r"ModuleNotFoundError: .*mixseg\.losses|mixseg\.losses\S* comes from ", fault)


def test_a_bundle_with_evil_code_and_right_sums_is_looked_at_and_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its code nor an expression, also where it is the working folder and on the path."""
    trap = tmp_path / "trap"
    evil(folder, trap)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    status, text = verify(Path("."))
    assert not trap.exists()
    assert status == 1
    assert "train.yaml, run_it#_target_: 'evil.anything' is from none of the packages" in text
    assert "not checked: runs the bundle's code: add --run to allow it" in text
    assert len(re.findall("add --run", text)) == len(RUNNING_CHECKS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mixseg/losses/__pycache__/entropy.cpython-311.pyc", b"\x00"),
        ("evil.pyc", b"\x00"),
        ("mixseg/more.py", b""),
        ("eval/models/model.pt", b"other weights, which would be taken first"),
        ("data/notes.txt", b""),
    ],
)
def test_what_is_not_listed_is_a_fault(folder: Path, name: str, content: bytes) -> None:
    assert check_checksums(folder) == check_compiled(folder) == []
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert check_checksums(folder) == [f"{name} is not listed in SHA256SUMS"]
    assert len(check_compiled(folder)) == name.endswith(".pyc")
    if name.endswith(".pyc"):
        write_sums(folder)  # listed or not
        assert check_compiled(folder) == [
            f"{name} is compiled code, which nobody can read: delete it"
        ]


@pytest.mark.parametrize("name", ["torch.py", "json.py", "monai/__init__.py"])
def test_a_file_that_hides_a_module_is_a_fault(folder: Path, name: str) -> None:
    (folder / "scripts").mkdir()
    (folder / "scripts" / "torch.py").touch()  # scripts.torch hides nothing
    assert check_hidden_modules(folder) == []
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    write_sums(folder)  # listed or not
    (fault,) = check_hidden_modules(folder)
    place = Path(name).parts[0]
    assert fault.startswith(f"{place} hides the module {place.removesuffix('.py')} from what is")


def test_weights_with_nan_are_a_fault(folder: Path) -> None:
    assert check_weight_values(folder) == []
    path = folder / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    state["encoder.extra"] = torch.tensor([1.0, torch.inf])
    torch.save(state, path)
    (fault,) = check_weight_values(folder)
    assert fault.startswith(f"'{path}' holds values that are not finite in encoder.extra: ")


@pytest.mark.parametrize("size", ["__import__('os').system('touch owned')", "n.real", "n**99"])
def test_metadata_is_not_evaluated(size: str, folder: Path) -> None:
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    content["network_data_format"]["inputs"]["image"]["spatial_shape"] = [size, 16]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"in a spatial_shape is not a size"):
        check_network(folder)
    assert not Path("owned").exists()


def test_that_a_bundle_is_code_is_said_once_or_never_after_a_look_at_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for count in (1, 1):
        refuse_changed(folder)
        assert caplog.text.count("a bundle is code: it runs with your rights") == count
    with (folder / "docs" / "README.md").open("a") as file:
        file.write("more\n")
    write_sums(folder)
    status, text = verify(folder)
    assert status == 0, text
    refuse_changed(folder)
    assert caplog.text.count("a bundle is code") == 1
    refuse_changed(SOURCE)
    assert caplog.text.count("a bundle is code") == 1
