"""Dictionaries of named tensors: prefixes, comparison with a network, non-finite values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nnunet_pt.core.errors import CheckpointError

PREFIXES = ("module.", "_orig_mod.")  # added by DistributedDataParallel and torch.compile


def strip_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names that the network itself gives them.

    A prefix is removed if every name has it, so that a network with a part called "module" keeps its names.
    """
    names = list(weights)
    while names:
        prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in names)), None)
        if prefix is None:
            break
        names = [n.removeprefix(prefix) for n in names]
    return dict(zip(names, weights.values(), strict=True))


def bare_network(network: nn.Module) -> nn.Module:
    """The network inside the wrappers of DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = network.module
        if inner is None:
            return network
        network = cast(nn.Module, inner)


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dictionaries, lists and tuples, with the path to it."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from tensors_in(item, f"{name}.{i}" if name else str(i))


def non_finite_tensors(value: Any) -> list[str]:
    """Names of the tensors that hold NaN or infinity; each piece of memory is looked at once."""
    seen: dict[tuple[Any, ...], bool] = {}
    names = []
    for name, tensor in tensors_in(value):
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in seen:
            seen[key] = _is_finite(tensor.detach())
        if not seen[key]:
            names.append(name)
    return names


def _is_finite(tensor: Tensor) -> bool:
    # NaN and infinity survive addition, and a sum is ten times as fast as looking at each value on its own
    total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: Path, *, share: bool = False) -> None:
    """Give a network the weights of a checkpoint; names and shapes must be equal.

    Args:
        network: The network; wrappers of torch.compile and DistributedDataParallel are looked through.
        weights: Name to tensor.
        source: The checkpoint's file, for the error message.
        share: Let the network use these very tensors, which saves the memory and time for copies.

    Raises:
        CheckpointError: If the weights belong to another network. The network is not changed then.
    """
    check_weights(network, weights, source)
    bare_network(network).load_state_dict(strip_prefixes(weights), assign=share)


def check_weights(network: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Compare the names and shapes of weights with those of a network.

    Args:
        network: The network; wrappers of torch.compile and DistributedDataParallel are looked through.
        weights: Name to tensor.
        source: The checkpoint's file, for the error message.

    Raises:
        CheckpointError: If the weights belong to another network.
    """
    own = bare_network(network).state_dict()
    given = strip_prefixes(weights)
    differences = [
        f"{name}: {shape_text(given.get(name))}, network {shape_text(tensor)}"
        for name, tensor in own.items()
        if name not in given or given[name].shape != tensor.shape
    ]
    differences += [f"{name}: {shape_text(given[name])}, network none" for name in given if name not in own]
    if differences:
        raise CheckpointError(
            f"{source} holds the weights of another network.",
            found="in the checkpoint\n" + listing(differences),
            expected=f"the {len(own)} tensors of this network",
            remedy="use the plans, configuration and trainer that the checkpoint was made with",
        )


def tensors_with_names(network: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Each parameter and buffer of a network once, with all of its names."""
    groups: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in bare_network(network).state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(groups.values())


def shape_text(tensor: Tensor | None) -> str:
    """A tensor's shape as a person writes it, "none" without a tensor."""
    return "none" if tensor is None else " x ".join(str(n) for n in tensor.shape) or "a number"


def listing(lines: list[str], most: int = 20) -> str:
    """Lines of an error message, one below the other; what is too much is counted."""
    shown = [f"      {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"      ... and {len(lines) - most} more")
    return "\n".join(shown)
