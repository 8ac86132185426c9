"""Placement of a network that is larger than its device: layers wait in host memory or on disk.

Layers are called as modules, and `accelerate` brings a layer to the device for its call. Embeddings, heads, norms and
single vectors stay on the device, since code outside their modules reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

DISK = "disk"


def spread_layers(network: nn.Module, room: Mapping[str, int], dtype: torch.dtype | None) -> dict[str, str]:
    """A device map for `from_pretrained`: devices by the names of modules, parameters and buffers.

    Args:
        network: the network, on the meta device.
        room: bytes for weights by device, the computing device first; `DISK` takes the rest.
        dtype: data type of the weights; None: as in `network`.

    Raises:
        ValueError: parts that must stay on the first device do not fit there.
    """
    kinds = {kind for module in network.modules() for kind in getattr(module, "_no_split_modules", None) or ()}
    layers = dict(_layers(network, kinds))
    main, left = next(iter(room)), dict(room)
    places = dict.fromkeys(_others(network, set(layers)), main)
    needed = _bytes(network, dtype) - sum(_bytes(layer, dtype) for layer in layers.values())
    if needed > left[main]:
        raise ValueError(
            f"embeddings, heads and norms take {needed / 2**30:.3g} GiB, {left[main] / 2**30:.3g} GiB are left on "
            f"{main}: only layers can wait elsewhere; choose --dtype bfloat16 or a --device with more memory"
        )
    left[main] -= needed
    for name, layer in layers.items():
        size = _bytes(layer, dtype)
        places[name] = next((device for device, free in left.items() if size <= free), DISK)
        if places[name] != DISK:
            left[places[name]] -= size
    return places


def _layers(module: nn.Module, kinds: set[str], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules of these classes, by name."""
    for name, child in module.named_children():
        if type(child).__name__ in kinds:
            yield prefix + name, child
        else:
            yield from _layers(child, kinds, f"{prefix}{name}.")


def _others(module: nn.Module, layers: set[str], prefix: str = "") -> Iterator[str]:
    """Names of the modules without layers, and of parameters and buffers beside layers."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    yield from (prefix + name for name, _ in own)
    for name, child in module.named_children():
        if any(layer.startswith(f"{prefix}{name}.") for layer in layers):
            yield from _others(child, layers, f"{prefix}{name}.")
        elif prefix + name not in layers:
            yield prefix + name


def _bytes(module: nn.Module, dtype: torch.dtype | None) -> int:
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    floating = dtype.itemsize if dtype else 0
    return sum(
        tensor.numel() * (floating if floating and tensor.is_floating_point() else tensor.itemsize)
        for tensor in tensors.values()
    )
