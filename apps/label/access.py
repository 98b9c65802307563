"""Who may ask a MONAI Label server for what: pages, machines, names and files."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from mixseg.configuration.kinds import value_fault

Message = MutableMapping[str, Any]

#: Names under which a browser reaches a server of its own machine.
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_NAME = re.compile(r'(?!\.)[^/\\:*?"<>|\x00-\x1f\x7f]{1,200}')
_DEVICE = re.compile(r"(cpu|cuda|mps)(:\d{1,3})?")
#: Files that a client may ask for as an answer.
_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha")

#: Settings of a train.yaml that a request may give; weights of the method's terms (``lambda_…``)
#: besides.
SETTINGS = (
    "accumulation_steps", "batch_full", "batch_partial", "batch_unlabeled", "clip_grad_norm",
    "ema_decay", "epoch_length", "lr", "momentum", "patience", "seed", "val_interval",
    "weight_decay",
)  # fmt: skip


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens at an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class OriginGuard:
    """Answers no page of another site, in front of a web application.

    MONAI Label reflects any origin and has no password: a page that the annotator opens in the
    same browser could train, read scans and delete them. A request with an ``Origin`` of another
    site is refused here before it does anything; and where the server is for this machine alone,
    so is one whose ``Host`` is another name (a name that was pointed at 127.0.0.1). Programs, 3D
    Slicer among them, send no ``Origin``.

    Args:
        app: the application (ASGI).
        origins: further origins that are answered, such as ``https://viewer.example``.
        hosts: names by which the server may be asked for; None for any.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], origins: Collection[str], hosts: Any = None
    ) -> None:
        self.app = app
        self.origins = {origin.rstrip("/").lower() for origin in origins}
        self.hosts = None if hosts is None else {host.lower() for host in hosts} | _OWN_NAMES

    async def __call__(
        self, scope: Mapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "http" and (reason := self._reason(scope)):
            head = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": head})
            await send({"type": "http.response.body", "body": reason.encode()})
        elif scope["type"] == "websocket":  # MONAI Label has none
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)

    def _reason(self, scope: Mapping[str, Any]) -> str:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", "").lower(), headers.get(b"origin", "").lower()
        name = urlsplit(f"//{host}").hostname or ""
        if self.hosts is not None and name not in self.hosts:
            return f"this server is not '{name}': use the address at which it listens"
        if origin and origin not in self.origins and origin != f"{scope['scheme']}://{host}":
            return (
                f"pages of {origin} are not answered: name the origin in MONAI_LABEL_CORS_ORIGINS "
                "where they shall be"
            )
        return ""


def check_name(kind: str, name: str) -> None:
    """Refuse an id or a tag that is not a plain file name.

    Raises:
        ValueError: it has a slash or another sign that no file's name has everywhere, begins with
            a dot, is empty or long.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f'{kind} {name!r} is not a plain name: up to 200 characters, none of / \\ : * ? " < > |'
            ", not beginning with a dot"
        )


def check_device(name: Any) -> str:
    """A device that a client names as PyTorch or as MONAI Label does.

    Raises:
        ValueError: it is neither.
    """
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    known = {*cuda, *(f"{device}:{number}" for number, device in enumerate(cuda))}
    if not isinstance(name, str) or not (_DEVICE.fullmatch(name) or name in known):
        raise ValueError(f"device {name!r} is unknown: give cpu, cuda or cuda:1")
    return name


def check_inference(request: Mapping[str, Any], places: Collection[Path]) -> None:
    """Refuse a request for an inference that names other files than the server's own.

    Raises:
        ValueError: an image elsewhere, weights by a path, an answer of another format, a tag that
            is not a plain name, or a device that is none.
    """
    image = request.get("image")
    if isinstance(image, str) and ("/" in image or "\\" in image):
        path = Path(image).resolve()
        if not any(path.is_relative_to(place.resolve()) for place in places):
            raise ValueError(f"image {image!r} is neither a scan's id nor a file of this server")
    weights = request.get("model_filename")
    for name in weights if isinstance(weights, list) else [weights]:
        if name is not None and name != "model.pt":
            raise ValueError(f"model_filename {name!r} is not there: this model has model.pt")
    extension = request.get("result_extension")
    if extension not in (None, "", *_EXTENSIONS):
        raise ValueError(f"result_extension {extension!r} is not one of {', '.join(_EXTENSIONS)}")
    if request.get("label_tag"):
        check_name("label_tag", str(request["label_tag"]))
    device = request.get("device")
    for name in device if isinstance(device, list) else [device]:
        if name:
            check_device(name)


def check_settings(request: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of train.yaml that a request gives: numbers of known names, nothing else.

    No text of a request reaches the configuration, where it could be an expression.

    Args:
        request: JSON of the client; entries that are not settings of train.yaml are ignored.

    Raises:
        ValueError: a setting that a request cannot give, or a value of another type.
    """
    settings = {}
    for name, value in request.items():
        if name not in train or isinstance(train[name], dict):
            continue
        if name not in SETTINGS and not name.startswith("lambda_"):
            raise ValueError(
                f"{name} cannot be set by a request, only {', '.join(SETTINGS)} and the "
                f"weights lambda_…; give it when the server is started: --{name}"
            )
        if fault := value_fault(name, value):
            raise ValueError(fault)
        settings[name] = value
    return settings
