"""What happens to one tensor of a network, given its counterpart in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from nnunet_pt.dataset.labels import BACKGROUND
from nnunet_pt.transfer.account import Action
from nnunet_pt.transfer.adapt import (
    fit_channels,
    fit_kernel,
    fit_rows,
    overlap,
    shared_names,
    swap_rotary_axes,
)
from nnunet_pt.transfer.adaptation_plan import NetworkKeys
from nnunet_pt.transfer.names import SEGMENTATION_LAYERS, Part, plainest_names
from nnunet_pt.transfer.positions import Positions, fit_positions
from nnunet_pt.transfer.weights import shape_text

Values = Callable[[Tensor], Tensor]
SEGMENTATION_LAYERS_STAY: Final = "segmentation layers are not transferred"
_SKIP_CONNECTION: Final = re.compile(r"decoder\.stages\.\d+\.convs\.0\.conv\.weight")
_QUERY_OR_KEY: Final = re.compile(r"(.*\.attn)\.[qk]_proj\.(weight|bias)")
_TOKEN_SIZE: Final = (8, 8, 8)  # of networks whose tokens several convolutions make
_DECODE: Final = re.compile(r"up_projection\.decode\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A tensor of the network and its counterpart.

    Attributes:
        target: Name of the network's tensor, the first in the state dict.
        name: Its plainest name.
        tensor: The tensor.
        source_name: Plainest name in the file; None if there is no counterpart.
        source: The counterpart.
        part: Part of the network.
        chosen: Whether it is to be transferred.
    """

    target: str
    name: str
    tensor: Tensor
    source_name: str | None
    source: Tensor | None
    part: Part
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens to a tensor.

    Attributes:
        action: What is done.
        how: How, or why not.
        transferred: How many values come from the file.
        values: Gives the new values from the present ones; None if they stay.
    """

    action: Action
    how: str = ""
    transferred: int = 0
    values: Values | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for all tensors of a transfer; of pairs, the file's comes first.

    Attributes:
        network: The network.
        weights: The file's tensors.
        path: The file.
        policy: ``strict``, ``match`` or ``adapt``.
        heads: Whether segmentation layers are transferred.
        decoder: Whether more than stem and encoder is.
        width: Whether other widths are adapted to.
        fix_token_axes: Whether the order of tokens is put right.
        keys: How the network names its parts.
        source_keys: How the file names its parts, if known.
        channels: Names of the input channels, if known.
        labels: Names of the output channels, if known.
        patch_sizes: Patch sizes, if known.
        transposed: Plainest names of the weights of transposed convolutions.
        in_proj: Plainest names of the weights that see the image.
        last_of_decode: Number of the last layer of Primus' decoder.
    """

    network: nn.Module
    weights: Mapping[str, Tensor]
    path: Path
    policy: str
    heads: bool
    decoder: bool
    width: bool
    fix_token_axes: bool
    keys: NetworkKeys
    source_keys: NetworkKeys | None
    channels: tuple[tuple[str, ...] | None, tuple[str, ...] | None]
    labels: tuple[tuple[str, ...] | None, tuple[str, ...] | None]
    patch_sizes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    transposed: frozenset[str] = field(init=False)
    in_proj: frozenset[str] = field(init=False)
    last_of_decode: int | None = field(init=False)

    def __post_init__(self) -> None:
        modules = self.network.named_modules()
        transposed = [f"{name}.weight" for name, module in modules if isinstance(module, _ConvTransposeNd)]
        numbers = [int(n[1]) for n in map(_DECODE.match, self.network.state_dict()) if n]
        object.__setattr__(self, "transposed", frozenset(plainest_names(transposed).values()))
        in_proj = plainest_names(f"{name}.weight" for name in self.keys.in_proj)
        object.__setattr__(self, "in_proj", frozenset(in_proj.values()))
        object.__setattr__(self, "last_of_decode", max(numbers, default=None))


def decide(pair: Pair, rules: Rules) -> Decision:
    """What happens to one tensor.

    Raises:
        CheckpointError: If a positional embedding cannot belong to its patch size.
    """
    if pair.source is None:
        return Decision(action="initial", how="not in the file")
    reason = reason_to_leave(pair, rules)
    if reason is not None:
        return Decision(action="skipped", how=reason)
    if pair.part == "heads" and rules.policy != "strict":
        return _head(pair, pair.source, rules)
    if rules.policy == "adapt" and pair.name == rules.keys.positions:
        return _positions(pair.tensor, pair.source, rules)
    if rules.policy != "adapt":
        return _as_it_is(pair.tensor, pair.source)
    return _adapted(pair, pair.source, rules)


def reason_to_leave(pair: Pair, rules: Rules) -> str | None:
    """Why a tensor is not to be transferred, whatever the file has; None if it is."""
    if not pair.chosen:
        return "not among the chosen layers"
    if rules.policy == "strict" and SEGMENTATION_LAYERS in pair.name:  # nnU-Net's rule knows heads by this name only
        return SEGMENTATION_LAYERS_STAY
    if pair.part == "heads" and not rules.heads and rules.policy != "strict":
        return SEGMENTATION_LAYERS_STAY
    if not rules.decoder and pair.part not in ("stem", "encoder"):
        return "only the encoder is transferred"
    return None


def _as_it_is(tensor: Tensor, source: Tensor) -> Decision:
    if source.shape != tensor.shape:
        return Decision(action="skipped", how=f"shape {shape_text(source)} in the file")
    return Decision(action="copied", transferred=tensor.numel(), values=partial(_constant, source))


def _constant(values: Tensor, _present: Tensor) -> Tensor:
    return values


def _head(pair: Pair, source: Tensor, rules: Rules) -> Decision:
    axis = 1 if pair.name in rules.transposed else 0
    theirs, ours = rules.labels
    if theirs is None or ours is None:
        return Decision(action="skipped", how="the labels of both sides are not known")
    if (source.ndim == 1) != (pair.tensor.ndim == 1):
        return Decision(action="skipped", how=f"shape {shape_text(source)} in the file")
    rows = shared_names(theirs, ours, source.shape[axis], pair.tensor.shape[axis])
    if not any(ours[row].casefold() != BACKGROUND for row in rows):
        return Decision(action="skipped", how="no label has the same name")
    if source.shape == pair.tensor.shape and rows == {i: i for i in range(len(ours))}:
        return _as_it_is(pair.tensor, source)
    if rules.policy != "adapt":
        return Decision(action="skipped", how="other labels")
    fitted = source
    if source.ndim > 1:
        fitted = fit_kernel(source, pair.tensor.shape[2:], transposed=axis == 1)
    widths = [n for i, n in enumerate(fitted.shape) if i != axis]
    if widths != [n for i, n in enumerate(pair.tensor.shape) if i != axis] and not rules.width:
        return Decision(action="skipped", how=f"shape {shape_text(source)} in the file")
    _, count = fit_rows(fitted, pair.tensor, rows, axis)

    def values(present: Tensor) -> Tensor:
        return fit_rows(fitted, present, rows, axis)[0]

    how = f"{len(rows)} of {len(ours)} labels by name"
    return Decision(action="adapted", how=how, transferred=count, values=values)


def _positions(target: Tensor, source: Tensor, rules: Rules) -> Decision:
    (patch_there, patch_here), state = rules.patch_sizes, rules.network.state_dict()
    here = _token_size(state, rules.keys) or _TOKEN_SIZE
    there = _token_size(rules.weights, rules.source_keys or rules.keys) or here
    how, values, transferred = fit_positions(
        Positions(embedding=target, weights=state, patch_size=patch_here, token_size=here),
        Positions(embedding=source, weights=rules.weights, patch_size=patch_there, token_size=there),
        rules.path,
        fix_token_axes=rules.fix_token_axes,
    )
    return Decision(action="adapted" if how else "copied", how=how, transferred=transferred, values=values)


def _token_size(weights: Mapping[str, Tensor], keys: NetworkKeys) -> tuple[int, ...] | None:
    """Size of the one convolution that makes tokens; None if several do."""
    for name in keys.in_proj:
        weight = weights.get(f"{name}.weight")
        if weight is not None and name.endswith(".proj"):
            return tuple(weight.shape[2:])
    return None


def _adapted(pair: Pair, source: Tensor, rules: Rules) -> Decision:
    tensor, steps, fitted = pair.tensor, [], source
    if _is_kernel(tensor) and _is_kernel(source):
        if pair.name in rules.in_proj:
            fitted = fit_channels(fitted, tensor.shape[1], *rules.channels)
            if fitted is not source:
                steps.append(f"{source.shape[1]} to {tensor.shape[1]} input channels")
        if fitted.shape[2:] != tensor.shape[2:]:
            steps.append(f"kernel {_size(source.shape[2:])} to {_size(tensor.shape[2:])}")
            fitted = fit_kernel(fitted, tensor.shape[2:], transposed=pair.name in rules.transposed)
    if rules.fix_token_axes and (found := _QUERY_OR_KEY.fullmatch(pair.name)):
        if fitted.shape != tensor.shape:
            return Decision(action="skipped", how="the order of tokens can only be corrected at the same width")
        heads = int(rules.network.get_submodule(found[1]).heads)  # type: ignore[arg-type]
        fitted = swap_rotary_axes(fitted, heads)
        steps.append("order of tokens corrected")
    if fitted.shape == tensor.shape:
        action: Action = "adapted" if steps else "copied"
        return Decision(
            action=action, how=", ".join(steps), transferred=tensor.numel(), values=partial(_constant, fitted)
        )
    if not rules.width or fitted.ndim != tensor.ndim:
        return Decision(action="skipped", how=f"shape {shape_text(source)} in the file")
    halves = 1 if _has_halves(pair.name, fitted, tensor) else None
    _, count = overlap(fitted, tensor, halves)

    def values(present: Tensor) -> Tensor:
        return overlap(fitted, present, halves)[0]

    steps.append(f"channels {_size(fitted.shape[:2])} in the file, {_size(tensor.shape[:2])} here")
    return Decision(action="adapted", how=", ".join(steps), transferred=count, values=values)


def _is_kernel(tensor: Tensor) -> bool:
    return tensor.ndim in (4, 5)


def _has_halves(name: str, source: Tensor, target: Tensor) -> bool:
    """Whether the input of a convolution is upsampled features followed by as many of the encoder, on both sides."""
    return _SKIP_CONNECTION.fullmatch(name) is not None and all(t.shape[1] == 2 * t.shape[0] for t in (source, target))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or str(math.prod(shape))
