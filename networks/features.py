"""Inputs and outputs of a network's submodules, beside its own output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


def forward_with_features(
    network: nn.Module, names: Iterable[str], *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, Tensor]]:
    """Run a network once and also return what some of its submodules returned.

    The features belong to the same graph as the output, so that losses on both cost one pass. The
    network is left as it was, also when the pass fails.

    Args:
        network: any module.
        names: of submodules, as in ``network.named_modules()``. A module whose output is later
            changed in place would be seen changed; the blocks of this package's networks are not.
        *args: of the network's ``forward``.
        **kwargs: of the network's ``forward``.

    Returns:
        The network's output, and name → output of that submodule, in the order of ``names``.

    Raises:
        ValueError: no submodule has such a name, or it ran not once in this pass (another branch,
            a shared block).

    Examples:
        >>> import torch
        >>> from mixseg.networks import DualBranchUNet
        >>> network = DualBranchUNet(features=(4, 8, 16), branches=1)
        >>> logits, features = forward_with_features(
        ...     network, ["encoder.center", "main.blocks.1"], torch.zeros(2, 1, 16, 16)
        ... )
        >>> {name: tuple(value.shape) for name, value in features.items()}
        {'encoder.center': (2, 16, 4, 4), 'main.blocks.1': (2, 4, 16, 16)}
    """
    output, calls = _forward_with_calls(network, names, *args, **kwargs)
    return output, {name: returned for name, (_, returned) in calls.items()}


def forward_with_inputs(
    network: nn.Module, names: Iterable[str], *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, Tensor]]:
    """Run a network once and also return what some of its submodules were given.

    As :func:`forward_with_features`, with each submodule's first positional argument in place of
    its output: the features that a head sees.

    Examples:
        >>> import torch
        >>> from mixseg.networks import DualBranchUNet
        >>> network = DualBranchUNet(features=(4, 8, 16), branches=1)
        >>> image = torch.zeros(2, 1, 16, 16)
        >>> logits, inputs = forward_with_inputs(network, ["main.head"], image)
        >>> bool((network.main.head(inputs["main.head"]) == logits).all())
        True
    """
    output, calls = _forward_with_calls(network, names, *args, **kwargs)
    return output, {name: given[0] for name, (given, _) in calls.items()}


def _forward_with_calls(
    network: nn.Module, names: Iterable[str], *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, tuple[tuple[Any, ...], Any]]]:
    """The network's output, and name → positional arguments and output of that submodule."""
    wanted = list(dict.fromkeys(names))
    modules = dict(network.named_modules())
    unknown = [name for name in wanted if name not in modules]
    if unknown:
        # Blocks and levels are what features are taken from; single layers would fill the screen.
        known = [name for name in modules if 1 <= name.count(".") <= 2 and name[-1].isdigit()]
        raise ValueError(
            f"{type(network).__name__} has no module {', '.join(map(repr, unknown))}; it has, "
            f"among others, {', '.join(known) or ', '.join(filter(None, modules))}"
        )
    seen: dict[str, list[tuple[tuple[Any, ...], Any]]] = {name: [] for name in wanted}
    handles = [
        # Called with the module, its arguments and its output.
        modules[name].register_forward_hook(lambda *call, name=name: seen[name].append(call[1:]))
        for name in wanted
    ]
    try:
        output = network(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    for name, calls in seen.items():
        if len(calls) != 1:
            raise ValueError(
                f"module {name!r} ran {len(calls)} times in one pass of "
                f"{type(network).__name__}; features are of modules that run once"
            )
    return output, {name: calls[0] for name, calls in seen.items()}
