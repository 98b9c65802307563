"""A bundle's weights as one TorchScript or ONNX file, checked."""

from __future__ import annotations

import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from monai.bundle import ConfigParser

from mixseg.apps.bundle.info import network_inputs
from mixseg.apps.bundle.weights import build_network, misfits, read_weights
from mixseg.configuration.loading import cause_of, load, silence
from mixseg.files.atomic import strict_json
from mixseg.networks.exported import ExportedNetwork, max_difference, onnx_options
from mixseg.networks.tracing import example_shapes

#: Largest difference of the logits, relative to the largest logit where that is above one.
TOLERANCE = 1e-4
#: What PyTorch's zip writer says where the disk is full; it raises a RuntimeError.
_WRITER = re.compile(r"inline_container|PytorchStreamWriter|unexpected pos|file write failed")


def missing_for_onnx() -> list[str]:
    """The packages that ONNX files need and that are not installed."""
    return [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]


def export_bundle(
    bundle: Path, format: str, checkpoint: Path, output: Path, settings: dict[str, Any]
) -> tuple[float, int, int]:
    """Write the file where it agrees with the network; see :func:`max_difference`.

    Raises:
        ValueError: for weights that do not fit, several branches, packages that are missing, or
            a file that differs from the network by more than :data:`TOLERANCE`; ``output`` is
            then left as it was.
        OSError: it cannot be written; likewise.
    """
    if format == "onnx" and (missing := missing_for_onnx()):
        raise ValueError(f"ONNX files need {', '.join(missing)}: pip install 'mixseg[onnx]'")
    config = bundle / "configs" / "inference.yaml"
    image = network_inputs(bundle)
    parser = ConfigParser(load(config))
    parser.update(settings)
    network, weights = build_network(config, settings), read_weights(checkpoint)
    if faults := misfits(network, weights):
        raise ValueError(
            f"the weights '{checkpoint}' do not fit the network of {config}: export the run that "
            f"trained them ({'; '.join(faults)})"
        )
    network.load_state_dict(weights)
    network.eval()
    with torch.no_grad():
        shapes = example_shapes(network, image["num_channels"], len(image["spatial_shape"]))
        logits = network(torch.randn(*shapes[0]))
    if not isinstance(logits, torch.Tensor):
        raise ValueError("the network returns both branches; add --branch student")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        file, written = Path(folder) / output.name, Path(folder) / "inference.json"
        try:
            # MONAI keeps this file in the exported one: it has to describe the network there.
            written.write_text(strict_json(parser.get()), encoding="utf-8")
            plain = Path(folder) / "weights.pt"
            torch.save(network.state_dict(), plain)
            options: dict[str, Any] = {
                "net_id": "network_def",
                "filepath": str(file),
                "ckpt_file": str(plain),
                "meta_file": str(bundle / "configs" / "metadata.json"),
                "config_file": str(written),
                "use_trace": True,  # the type that forward returns depends on the branch
                "input_shape": shapes[0],
            }
            with silence():
                if format == "ts":
                    monai.bundle.ckpt_export(**options)
                else:
                    free = onnx_options(len(image["spatial_shape"]))
                    monai.bundle.onnx_export(**options, converter_kwargs=free)
        except (OSError, RuntimeError) as error:
            cause = cause_of(error)
            if not (isinstance(cause, OSError) or _WRITER.search(str(cause))):
                raise ValueError(f"the network cannot be exported: {cause}") from error
            raise OSError(
                f"{output} could not be written ({cause}): if the disk is full, make "
                "room, or choose another --output"
            ) from error
        exported = ExportedNetwork(file)
        found = max_difference(network, exported, shapes)
        allowed = TOLERANCE * max(1.0, float(logits.abs().max()))
        if not found[0] <= allowed:
            raise ValueError(
                f"the exported network differs from the bundle's by up to {found[0]:g}, more than "
                f"{allowed:g}: nothing was written"
            )
        os.replace(file, output)
    return found
