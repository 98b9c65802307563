"""What a MONAI Label server refuses: pages of other sites, other machines' names, other files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mixseg.apps.label import access
from mixseg.apps.label.access import OriginGuard


def ask(guard: OriginGuard, **headers: str) -> tuple[int, str]:
    """Status and text of the answer; 200 comes from the application behind the guard."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "scheme": "http", "method": "POST", "headers": raw}
    asyncio.run(guard(scope, None, send))
    return sent[0]["status"], sent[1]["body"].decode()


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"trained"})


def test_pages_of_other_sites_are_not_answered() -> None:
    guard = OriginGuard(application, ["https://viewer.example/"], ["127.0.0.1"])
    host = "127.0.0.1:8000"
    assert ask(guard, host=host) == (200, "trained")  # 3D Slicer
    assert ask(guard, host=host, origin="http://127.0.0.1:8000")[0] == 200
    assert ask(guard, host=host, origin="https://viewer.example")[0] == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9000", "https://127.0.0.1"):
        status, text = ask(guard, host=host, origin=origin)
        assert status == 403, origin
        assert f"pages of {origin} are not answered" in text


def test_a_name_that_was_pointed_at_this_machine_is_not_answered() -> None:
    """A page of evil.example whose address has become 127.0.0.1 has the same origin."""
    guard = OriginGuard(application, [], ["127.0.0.1"])
    evil = "evil.example:8000"
    assert ask(guard, host=evil, origin=f"http://{evil}")[0] == 403
    assert ask(guard, host="localhost:8000")[0] == 200
    assert ask(guard, host="[::1]:8000")[0] == 200
    # A server for other machines is asked by whatever name it has there.
    assert ask(OriginGuard(application, []), host="scans.clinic:8000")[0] == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("scans.clinic", False),
    ],
)
def test_addresses_of_this_machine_alone(host: str, local: bool) -> None:
    assert access.is_local(host) is local


def test_names_that_leave_the_folder_are_refused() -> None:
    for name in ("patient 01", "Ø_frame12", "final", "a..b"):
        access.check_name("tag", name)
    outside = ("../x", "a/b", "/etc/passwd", "..", ".hidden", "a\\b", "a\x00b", "c:x")
    for name in (*outside, "", 201 * "a"):
        with pytest.raises(ValueError, match=r"tag .* is not a plain name"):
            access.check_name("tag", name)


@pytest.mark.parametrize(
    "request_",
    [
        {"image": "/etc/hostname"},
        {"image": "scans/../../secret.nii.gz"},
        {"image": "a", "model_filename": "../../other/evil.pt"},
        {"image": "a", "model_filename": ["other.pt"]},
        {"image": "a", "result_extension": "/../../../x.nii.gz"},
        {"image": "a", "label_tag": "../../final"},
        {"image": "a", "device": "$__import__('os').system('touch owned')"},
        {"image": "a", "device": ["@network"]},
    ],
)
def test_an_inference_names_no_other_files_and_no_expressions(
    request_: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"."):
        access.check_inference(request_, [tmp_path])
    assert not Path("owned").exists()


def test_what_clients_send_for_an_inference_passes(tmp_path: Path) -> None:
    upload = str(tmp_path / "tmpab12.nii.gz")
    for request in (
        {"image": "patient 01", "device": "cpu", "model_filename": "model.pt"},
        {"image": upload, "device": ["cuda"], "model_filename": ["model.pt"]},
        {"image": "a", "result_extension": ".nrrd", "label_tag": "original", "device": ""},
    ):
        access.check_inference(request, [tmp_path])
