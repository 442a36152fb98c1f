"""Names of tensors: one name for each tensor, and which part of a network it belongs to.

nnU-Net's networks hold a tensor under several names: ``X.conv`` is also ``X.all_modules.0``, ``X.norm`` the next one of
``all_modules`` that has tensors, and all of ``encoder`` appears again below ``decoder.encoder``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import torch
from torch import Tensor, nn

from nnunet_pt.transfer.adaptation_plan import PLAIN_KEYS, PRIMUS_KEYS, RESIDUAL_KEYS, NetworkKeys

Part = Literal["stem", "encoder", "decoder", "heads", "other"]

_UNIT: Final = re.compile(r"(.*\.)all_modules\.(\d+)\.(.+)")
_REPEATED_ENCODER: Final = re.compile(r"(.*\.|)decoder\.encoder\.(.+)")
_STAGE: Final = re.compile(
    r"((?:.+\.)?(?:encoder\.stages\.\d+|decoder\.(?:stages|transpconvs)\.\d+|eva\.blocks\.\d+|up_projection\.decode\.\d+"
    r"|down_projection\.(?:stem|stages\.\d+|proj\w*|final_proj)|encoder\.stem|eva\.\w+))(?:\.|$)"
)
_DECODER_LEVEL: Final = re.compile(
    r"((?:.*\.)?(?:decoder\.(?:stages|transpconvs|seg_layers)|up_projection\.decode)\.)(\d+)(\..+)"
)
SEGMENTATION_LAYERS: Final = ".seg_layers."

# version 1 of nnU-Net called the parts of its U-Net otherwise; the last context stage is made of two pieces
_VERSION_1: Final = (
    (re.compile(r"conv_blocks_context\.(\d+)\.([01])\.blocks\.(\d+)\."), r"encoder.stages.\1.0.convs.\2.{\3}"),
    (re.compile(r"conv_blocks_context\.(\d+)\.blocks\.(\d+)\."), r"encoder.stages.\1.0.convs.\2."),
    (re.compile(r"conv_blocks_localization\.(\d+)\.([01])\.blocks\.(\d+)\."), r"decoder.stages.\1.convs.\2.{\3}"),
    (re.compile(r"tu\.(\d+)\."), r"decoder.transpconvs.\1."),
    (re.compile(r"seg_outputs\.(\d+)\."), r"decoder.seg_layers.\1."),
)


def one_name_each(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, under its plainest name.

    Where the names of one tensor hold different values, ``all_modules`` counts: blocks compute with it, while nnssl's
    SparK leaves the values of the initialisation under the other name.

    Args:
        weights: Name to tensor.

    Returns:
        Plainest name to tensor, and plainest name to the name in ``weights`` whose tensor it is.
    """
    firsts = _norm_numbers(weights)
    stored: dict[str, str] = {}
    for name in weights:
        plain = _plainest(name, firsts)
        if plain not in stored or _authority(name) > _authority(stored[plain]):
            stored[plain] = name
    unique = {plain: weights[name] for plain, name in stored.items()}
    for plain, tensor in unique.items():
        if plain in weights and _same(weights[plain], tensor):
            stored[plain] = plain  # the name that people expect
    return unique, stored


def stale_names(weights: Mapping[str, Tensor], stored: Mapping[str, str]) -> tuple[str, ...]:
    """Names in a file that are not the one that counts and hold other values.

    Args:
        weights: Name to tensor.
        stored: Plainest name to the name that counts.
    """
    plain = plainest_names(weights)
    pairs = ((name, tensor, weights[stored[plain[name]]]) for name, tensor in weights.items())
    return tuple(name for name, mine, counting in pairs if not _same(mine, counting))


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)


def plainest_names(names: Iterable[str]) -> dict[str, str]:
    """Each name and the plainest one of the same tensor."""
    everything = list(names)
    firsts = _norm_numbers(everything)
    return {name: _plainest(name, firsts) for name in everything}


def _norm_numbers(names: Iterable[str]) -> dict[str, int]:
    """Unit -> the first number above 0 in ``all_modules`` that has tensors: the normalisation's, whatever precedes."""
    firsts: dict[str, int] = {}
    for name in names:
        unit = _UNIT.fullmatch(name)
        if unit is not None and int(unit[2]) > 0:
            firsts[unit[1]] = min(int(unit[2]), firsts.get(unit[1], int(unit[2])))
    return firsts


def _plainest(name: str, norm_numbers: Mapping[str, int]) -> str:
    unit = _UNIT.fullmatch(name)
    if unit is not None:
        number = int(unit[2])
        if number == 0:
            name = f"{unit[1]}conv.{unit[3]}"
        elif number == norm_numbers.get(unit[1]):
            name = f"{unit[1]}norm.{unit[3]}"
    repeated = _REPEATED_ENCODER.fullmatch(name)
    return name if repeated is None else f"{repeated[1]}encoder.{repeated[2]}"


def _authority(name: str) -> tuple[bool, bool]:
    return ".all_modules." in name, ".encoder." not in name


def names_of_version_1(names: Iterable[str]) -> dict[str, str]:
    """Names in a ``.model`` file of nnU-Net version 1 and those that the present U-Net has in their places."""
    everything = list(names)
    firsts: dict[str, int] = {}  # convolutions in the first of the two pieces of a stage
    for name in everything:
        piece = re.match(r"(conv_blocks_\w+\.\d+)\.0\.blocks\.(\d+)\.", name)
        if piece is not None:
            firsts[piece[1]] = max(firsts.get(piece[1], 0), int(piece[2]) + 1)
    return {name: _from_version_1(name, firsts) for name in everything}


def _from_version_1(name: str, firsts: Mapping[str, int]) -> str:
    for pattern, replacement in _VERSION_1:
        found = pattern.match(name)
        if found is None:
            continue
        if "{" in replacement:
            stage = name[: found.end(1)]
            number = int(found[3]) + (firsts.get(stage, 0) if found[2] == "1" else 0)
            head = "encoder.stages" if "context" in stage else "decoder.stages"
            middle = ".0.convs." if "context" in stage else ".convs."
            new = f"{head}.{found[1]}{middle}{number}."
        else:
            new = found.expand(replacement)
        return new + re.sub(r"^(instnorm|bn)\.", "norm.", name[found.end() :])
    return name


def keys_of(network: nn.Module) -> NetworkKeys:
    """How a network of this package names its parts."""
    if hasattr(network, "eva"):
        if hasattr(network.down_projection, "proj"):
            return PRIMUS_KEYS
        stem = "down_projection.stem.blocks.0"
        names = [n for n, _ in network.named_modules() if re.fullmatch(rf"{re.escape(stem)}\.(conv1|skip\.\d+)", n)]
        units = tuple(f"{n}.{alias}" for n in names for alias in ("conv", "all_modules.0"))
        return NetworkKeys(encoder="eva", stem="down_projection", in_proj=units, positions="eva.pos_embed")
    return RESIDUAL_KEYS if hasattr(getattr(network, "encoder", None), "stem") else PLAIN_KEYS


def lies_in(name: str, prefix: str) -> bool:
    """Whether a name is a part, or in that part."""
    return name == prefix or name.startswith(prefix + ".") or not prefix


def is_head(name: str, last_of_decode: int | None) -> bool:
    """Whether a tensor's first or second axis stands for the classes.

    Args:
        name: Its plainest name.
        last_of_decode: Number of the last layer of ``up_projection.decode``, if there is one.
    """
    if SEGMENTATION_LAYERS in name:
        return True
    return last_of_decode is not None and lies_in(name, f"up_projection.decode.{last_of_decode}")


def part_of(name: str, keys: NetworkKeys, *, head: bool) -> Part:
    """The part of a network in which a tensor is."""
    if head:
        return "heads"
    in_stem = lies_in(name, keys.stem) and not lies_in(keys.stem, keys.encoder)
    if in_stem:
        return "stem"
    if lies_in(name, keys.encoder):
        return "encoder"
    first = name.partition(".")[0]
    if first in ("decoder", "up_projection"):
        return "decoder"
    return "encoder" if first == "encoder" else "other"


def stage_of(name: str, part: Part) -> str:
    """The row of the account in which a tensor is counted."""
    if part == "heads":
        return "segmentation layers"
    found = _STAGE.match(name)
    if found is None:
        return name.rpartition(".")[0].partition(".")[0] or name
    return found[1].replace("decoder.transpconvs", "decoder.stages")


def decoder_level(name: str) -> tuple[str, int, str] | None:
    """Beginning, number and end of the name of a tensor whose stage is counted from the lowest resolution."""
    found = _DECODER_LEVEL.fullmatch(name)
    return None if found is None else (found[1], int(found[2]), found[3])
