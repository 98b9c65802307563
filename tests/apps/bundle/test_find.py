"""Bundles by folder, zip and name; weights found, or fetched and compared with their hash."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from mixseg.apps.bundle import weights
from mixseg.apps.bundle.archive import write_zip
from mixseg.apps.bundle.find import bundle_name, find_bundle, find_trained, refuse_changed
from mixseg.apps.bundle.sums import write_sums
from mixseg.apps.bundle.weights import bundle_weights

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "heart"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mixseg" / "bundles"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address on which it is served, in place of a server with a certificate."""

    def fetch(url: str, timeout: float) -> Any:
        assert timeout > 0
        answer = urlopen(url.replace("https://", "http://"), timeout=timeout)
        answer.url = url
        return answer

    monkeypatch.setattr(weights, "urlopen", fetch)
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"https://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def list_large(bundle: Path, **entry: str) -> None:
    (bundle / "large_files.yml").write_text(yaml.safe_dump({"large_files": [entry]}))


def packed(bundle: Path, file: Path) -> Path:
    write_sums(bundle)
    write_zip(bundle, file)
    return file


def test_a_folder_is_itself_and_a_name_is_looked_up(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_bundle(bundle) == bundle
    monkeypatch.chdir(tmp_path)
    # Nothing here: beside the installation.
    assert find_bundle("la_confkd") == REPOSITORY / "bundles" / "la_confkd"
    here = tmp_path / "bundles" / "la_confkd"
    put(here / "configs" / "metadata.json", b"{}")
    assert find_bundle("la_confkd").resolve() == here


def test_what_is_no_bundle_is_refused_with_what_there_is(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no bundle 'lung'.*acdc_lv_confkd.*la_confkd"):
        find_bundle("lung")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"'empty' is not a bundle, it has no configs/metadata.json"
    ):
        find_bundle("empty")
    with pytest.raises(ValueError, match=r"no configs/metadata.json: name one of heart in it"):
        find_bundle(tmp_path)
    image = put(tmp_path / "scan.nii.gz")
    with pytest.raises(ValueError, match=r"scan.nii.gz' is not a bundle: give its folder, a zip"):
        find_bundle(image)


def test_a_zip_is_unpacked_once_and_a_changed_copy_is_refused(
    bundle: Path, tmp_path: Path, cache: Path
) -> None:
    file = packed(bundle, tmp_path / "heart_v0.1.0.zip")
    folder = find_bundle(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert folder == cache / digest[:16] / "heart"
    assert json.loads((folder / "configs" / "metadata.json").read_text()) == {"version": "0.1.0"}
    before = (folder / "configs" / "metadata.json").stat().st_mtime_ns
    assert find_bundle(file) == folder
    assert (folder / "configs" / "metadata.json").stat().st_mtime_ns == before
    refuse_changed(folder)
    (folder / "configs" / "metadata.json").write_text("{}")
    with pytest.raises(FileExistsError) as raised:
        find_bundle(file)
    assert raised.value.filename == str(folder)
    with pytest.raises(
        ValueError,
        match=r"is not what was packed: .* delete its SHA256SUMS:\n  configs/metadata.json is not",
    ):
        refuse_changed(folder)


def test_a_tampered_zip_is_refused_and_leaves_nothing(
    bundle: Path, tmp_path: Path, cache: Path
) -> None:
    put(bundle / "configs" / "inference.yaml", b"lr: 1")
    write_sums(bundle)
    put(bundle / "configs" / "inference.yaml", b"lr: 2")
    write_zip(bundle, tmp_path / "heart.zip")
    with pytest.raises(ValueError, match=r"(?s)is refused.*configs/inference.yaml is not the file"):
        find_bundle(tmp_path / "heart.zip")
    with zipfile.ZipFile(tmp_path / "climbs.zip", "w") as archive:
        archive.writestr("heart/../../evil.txt", "x")
    with pytest.raises(ValueError, match="climbs out of the folder"):
        find_bundle(tmp_path / "climbs.zip")
    assert not [path for path in tmp_path.rglob("*") if path.name == "evil.txt"]
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_zip_without_a_bundle_is_refused(tmp_path: Path, cache: Path) -> None:
    put(tmp_path / "other" / "notes.txt", b"x")
    file = packed(tmp_path / "other", tmp_path / "other.zip")
    with pytest.raises(ValueError, match=r"'.*other.zip' holds no bundle: it has no other/configs"):
        find_bundle(file)


def test_a_bundle_that_was_not_packed_may_change(bundle: Path) -> None:
    put(bundle / "models" / "model.pt")
    refuse_changed(bundle)


def test_weights_are_those_trained_there_then_those_that_came_with_it(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"has no weights: there is neither .*give a file with --"):
        bundle_weights(bundle)
    model = put(bundle / "models" / "model.pt")
    assert bundle_weights(bundle) == model
    trained = put(bundle / "eval" / "models" / "model.pt")
    assert bundle_weights(bundle) == trained


def test_weights_are_fetched_once_and_compared(bundle: Path, server: tuple[Path, str]) -> None:
    folder, address = server
    put(folder / "weights.bin", b"numbers")
    digest = hashlib.sha256(b"numbers").hexdigest()
    entry = {"path": "models/model.pt", "url": f"{address}/weights.bin", "hash_val": digest}
    list_large(bundle, **entry, hash_type="sha256")
    assert bundle_weights(bundle) == bundle / "models" / "model.pt"
    assert (bundle / "models" / "model.pt").read_bytes() == b"numbers"
    (folder / "weights.bin").unlink()
    assert bundle_weights(bundle).read_bytes() == b"numbers"
    put(bundle / "models" / "model.pt", b"others")
    with pytest.raises(ValueError, match=r"is not the file that large_files\.yml names .sha256 "):
        bundle_weights(bundle)


@pytest.mark.parametrize("scheme", ["http", "file", "ftp"])
def test_only_https_is_fetched(scheme: str, bundle: Path, tmp_path: Path) -> None:
    source = put(tmp_path / "weights.bin", b"numbers")
    digest = hashlib.sha256(b"numbers").hexdigest()
    url = f"{scheme}://{source}"
    list_large(bundle, path="models/model.pt", url=url, hash_val=digest)
    with pytest.raises(ValueError, match="only https:// is fetched; offline, put the file there"):
        bundle_weights(bundle)
    assert not (bundle / "models" / "model.pt").exists()


def test_a_weaker_hash_is_none(bundle: Path) -> None:
    digest = hashlib.md5(b"numbers").hexdigest()
    url = "https://example.org/weights.bin"
    list_large(bundle, path="models/model.pt", url=url, hash_val=digest, hash_type="md5")
    with pytest.raises(ValueError, match="states no sha256 for"):
        bundle_weights(bundle)


def test_fetched_weights_of_another_hash_are_not_kept(
    bundle: Path, server: tuple[Path, str]
) -> None:
    folder, address = server
    put(folder / "weights.bin", b"others")
    entry = {"path": "models/model.pt", "url": f"{address}/weights.bin"}
    list_large(bundle, **entry, hash_val=hashlib.sha256(b"numbers").hexdigest())
    with pytest.raises(ValueError, match=f"what {address}/weights.bin sends is not the file"):
        bundle_weights(bundle)
    assert not (bundle / "models").exists() or not list((bundle / "models").iterdir())
    list_large(bundle, **entry)
    with pytest.raises(ValueError, match=r"states no sha256 for .*model.pt'"):
        bundle_weights(bundle)
    put(folder / "weights.bin", b"numbers")
    list_large(bundle, **entry, hash_val=hashlib.sha256(b"numbers").hexdigest())
    assert bundle_weights(bundle).name == "model.pt"


def test_weights_that_cannot_be_fetched_say_where_to_put_them(
    bundle: Path, server: tuple[Path, str]
) -> None:
    digest = hashlib.sha256(b"numbers").hexdigest()
    url = f"{server[1]}/absent.bin"
    list_large(bundle, path="models/model.pt", url=url, hash_val=digest)
    with pytest.raises(
        ValueError, match=rf"could not be fetched from {url} .*404.*sha256 {digest}"
    ):
        bundle_weights(bundle)


def test_a_home_that_cannot_be_written_is_worked_around(
    bundle: Path, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in the place of the cache, which stops a superuser, too."""
    put(cache.parents[1], b"")
    folder = find_bundle(packed(bundle, tmp_path / "heart.zip"))
    assert json.loads((folder / "configs" / "metadata.json").read_text()) == {"version": "0.1.0"}
    assert "heart.zip' is unpacked into " in caplog.text
    assert "set XDG_CACHE_HOME to a folder" in caplog.text
    refuse_changed(folder)


def test_a_bundle_that_was_trained_in_its_folder_is_that_run(bundle: Path) -> None:
    """Its weights come with its settings; a run from before the record has none."""
    run = bundle / "eval"
    (run / "models").mkdir(parents=True)
    (run / "models" / "model.pt").write_bytes(b"trained")
    assert find_trained(bundle) == bundle
    (run / "configs").mkdir()
    for name in ("metadata.json", "train.yaml"):
        (run / "configs" / name).write_text("{}")
    (run / "record.json").write_text('{"bundle": "heart"}')
    assert find_trained(bundle) == find_trained(run) == run
    assert bundle_name(run) == bundle_name(bundle) == "heart"
    (run / "models" / "model.pt").unlink()  # before the first validation
    assert find_trained(bundle) == bundle
