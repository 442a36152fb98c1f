"""Planning a transfer: a network and a file in, an account of every tensor out, before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from nnunet_pt.core.errors import CheckpointError, UsageError
from nnunet_pt.core.wording import counted
from nnunet_pt.transfer.account import Action, StageShare, TensorTransfer, TransferPlan
from nnunet_pt.transfer.adaptation_plan import NetworkKeys
from nnunet_pt.transfer.decide import Decision, Pair, Rules, decide, reason_to_leave
from nnunet_pt.transfer.layer_selection import select
from nnunet_pt.transfer.match import counterparts
from nnunet_pt.transfer.names import is_head, keys_of, part_of, plainest_names, stage_of
from nnunet_pt.transfer.source import PretrainedSource
from nnunet_pt.transfer.weights import bare_network, listing, non_finite_tensors, shape_text, tensors_with_names

__all__ = ["Action", "StageShare", "TensorTransfer", "TransferPlan", "TransferSettings", "plan_transfer"]

Policy = Literal["strict", "match", "adapt"]
POLICIES: tuple[Policy, ...] = ("strict", "match", "adapt")
_ENOUGH = 0.5
_NOTEWORTHY = 0.1  # share of a tensor; layers that are much wider would count although they stay random


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSettings:
    """What is transferred, and what is known about both sides.

    Attributes:
        layers: Parts of the network to transfer, see :func:`nnunet_pt.transfer.layer_selection.select`; None for all.
        heads: ``auto``: rows of the segmentation layers whose labels have the same name; ``none``: never.
        decoder: Whether more than stem and encoder is transferred.
        width: Whether the overlapping channels of layers of other widths are copied (policy ``adapt``).
        fix_token_axes: Put right the order of tokens of nnssl's EvaMAE checkpoints (policy ``adapt``).
        allow_little: Accept that less than half of the encoder is transferred.
        target_channels: Names of the network's input channels, if known.
        target_labels: Names of its output channels, if known.
        target_patch_size: Its patch size; needed for positional embeddings of grids that are no cubes.
        source_channels: Names of the file's input channels; None for those that the file says.
        source_labels: Names of the file's output channels; None for those that the file says.
        source_patch_size: The file's patch size; None for that which the file says.
        target_keys: How the network names its parts; None for what it is known to do.
        source_keys: How the file names its parts; None for what the file says.
    """

    layers: tuple[str, ...] | None = None
    heads: Literal["auto", "none"] = "auto"
    decoder: bool = True
    width: bool = True
    fix_token_axes: bool = False
    allow_little: bool = False
    target_channels: tuple[str, ...] | None = None
    target_labels: tuple[str, ...] | None = None
    target_patch_size: tuple[int, ...] | None = None
    source_channels: tuple[str, ...] | None = None
    source_labels: tuple[str, ...] | None = None
    source_patch_size: tuple[int, ...] | None = None
    target_keys: NetworkKeys | None = None
    source_keys: NetworkKeys | None = None


def plan_transfer(
    network: nn.Module, source: PretrainedSource, *, policy: Policy, settings: TransferSettings | None = None
) -> TransferPlan:
    """Say for every tensor of a network what it gets from a file; nothing is changed before the plan is applied.

    Args:
        network: The freshly built network; wrappers are looked through.
        source: The weights.
        policy: ``strict``: everything but the segmentation layers, equal shapes, else an error with all differences
            (nnU-Net's rule); ``match``: what has the same shape; ``adapt``: also what can be changed to fit.
        settings: The rest.

    Raises:
        CheckpointError: If the policy is ``strict`` and something does not fit; if less than half of the encoder would
            be transferred; if the positional embedding cannot belong to the patch size; if values are not finite.
        UsageError: If the settings do not go together, or a chosen layer does not exist.
    """
    settings = settings or TransferSettings()
    bare = bare_network(network)
    rules = _rules(bare, source, policy, settings)
    pairs = _pairs(bare, source, rules, policy, settings)
    decisions = [decide(pair, rules) for pair in pairs]
    if policy == "strict":
        _check_differences(source, pairs, decisions, rules)
    used = {pair.source_name for pair in pairs if pair.source_name is not None}
    tensors = tuple(_account(pair, decision, source) for pair, decision in zip(pairs, decisions, strict=True))
    plan = TransferPlan(
        tensors=tensors,
        path=source.path,
        kind=source.kind,
        sha256=source.sha256,
        policy=policy,
        unused=tuple(source.stored_as.get(name, name) for name in source.weights if name not in used),
        notes=_notes(source),
        too_little=_too_little(tensors, {pair.target for pair in pairs if pair.chosen}),
        values={p.target: d.values for p, d in zip(pairs, decisions, strict=True) if d.values is not None},
    )
    _check_finite(source, pairs, decisions)
    if plan.too_little is not None and not settings.allow_little:
        raise _refuse(plan)
    return plan


def _rules(network: nn.Module, source: PretrainedSource, policy: Policy, settings: TransferSettings) -> Rules:
    if settings.fix_token_axes and (policy != "adapt" or not hasattr(network, "eva")):
        raise UsageError(
            "The order of tokens can only be corrected in a Primus network, with the policy 'adapt'.",
            found=f"a {type(network).__name__} and the policy {policy!r}",
            remedy="leave out --fix_token_axes",
        )
    adaptation = source.adaptation_plan
    return Rules(
        network=network,
        weights=source.weights,
        path=source.path,
        policy=policy,
        heads=settings.heads == "auto",
        decoder=settings.decoder,
        width=settings.width,
        fix_token_axes=settings.fix_token_axes,
        keys=settings.target_keys or keys_of(network),
        source_keys=settings.source_keys or (adaptation.keys if adaptation is not None else None),
        channels=(settings.source_channels or source.input_names, settings.target_channels),
        labels=(settings.source_labels or source.label_names, settings.target_labels),
        patch_sizes=(settings.source_patch_size or source.patch_size, settings.target_patch_size),
    )


def _pairs(
    network: nn.Module, source: PretrainedSource, rules: Rules, policy: Policy, settings: TransferSettings
) -> list[Pair]:
    tensors = tensors_with_names(network)
    plain = plainest_names(name for names, _ in tensors for name in names)
    targets = {names[0]: plain[names[0]] for names, _ in tensors}
    if policy == "strict" and rules.source_keys is None:
        matched = {name: name for name in targets.values() if name in source.weights}
    else:
        matched = counterparts(targets.values(), source.weights, target_keys=rules.keys, source_keys=rules.source_keys)
    chosen = set(targets)
    if settings.layers is not None:
        chosen = select(targets, settings.layers, option="-transfer_layers")
    pairs = []
    for names, tensor in tensors:
        name = targets[names[0]]
        head = is_head(name, rules.last_of_decode)
        other = matched.get(name)
        pairs.append(
            Pair(
                target=names[0],
                name=name,
                tensor=tensor,
                source_name=other,
                source=None if other is None else source.weights[other],
                part=part_of(name, rules.keys, head=head),
                chosen=names[0] in chosen,
            )
        )
    return pairs


def _account(pair: Pair, decision: Decision, source: PretrainedSource) -> TensorTransfer:
    stored = None if pair.source_name is None else source.stored_as.get(pair.source_name, pair.source_name)
    return TensorTransfer(
        target=pair.target,
        source=stored,
        action=decision.action,
        how=decision.how,
        target_shape=tuple(pair.tensor.shape),
        source_shape=None if pair.source is None else tuple(pair.source.shape),
        parameters=pair.tensor.numel(),
        transferred=decision.transferred,
        part=pair.part,
        stage=stage_of(pair.name, pair.part),
    )


def _notes(source: PretrainedSource) -> tuple[str, ...]:
    if not source.stale:
        return ()
    return (
        f"{len(source.stale)} tensors in the file have a second name with other values, which nothing computes with; "
        "they are not used",
    )


def _check_differences(source: PretrainedSource, pairs: list[Pair], decisions: list[Decision], rules: Rules) -> None:
    differences = [
        f"{pair.target}: checkpoint {shape_text(pair.source)}, network {shape_text(pair.tensor)}"
        for pair, decision in zip(pairs, decisions, strict=True)
        if decision.action != "copied" and reason_to_leave(pair, rules) is None
    ]
    if differences:
        raise CheckpointError(
            f"{source.path} holds the weights of another network.",
            found=f"{counted(len(differences), 'difference')}\n" + listing(differences, len(differences)),
            expected="the tensors of this network, except for the segmentation layers",
            remedy="use plans with the network that the checkpoint was trained with (nnUNetv2_move_plans_between_"
            "datasets), or -transfer match or -transfer adapt to take what fits",
        )


def _check_finite(source: PretrainedSource, pairs: list[Pair], decisions: list[Decision]) -> None:
    wanted = {
        source.stored_as.get(pair.source_name, pair.source_name): pair.source
        for pair, decision in zip(pairs, decisions, strict=True)
        if decision.values is not None and pair.source_name is not None
    }
    if bad := non_finite_tensors(wanted):
        raise CheckpointError(
            f"{source.path} holds NaN or infinity.",
            found=f"in {counted(len(bad), 'tensor')}\n" + listing(bad, 5),
            expected="finite weights",
            remedy="use an earlier checkpoint of that training",
        )


def _too_little(tensors: tuple[TensorTransfer, ...], chosen: set[str]) -> str | None:
    """What is taken, if it is less than half of the encoder, whether tensors or their values are counted."""
    encoder = [t for t in tensors if t.part in ("stem", "encoder") and t.target in chosen]
    counted = encoder or [t for t in tensors if t.part != "heads" and t.target in chosen]
    total, taken = sum(t.parameters for t in counted), sum(t.transferred for t in counted)
    used = sum(t.transferred >= _NOTEWORTHY * t.parameters for t in counted)
    if taken >= _ENOUGH * total or used >= _ENOUGH * len(counted):
        return None
    where = "encoder" if encoder else "network"
    return f"{used} of {len(counted)} tensors of the {where}, {taken:,} of {total:,} parameters"


def _refuse(plan: TransferPlan) -> CheckpointError:
    return CheckpointError(
        f"{plan.path} fits this network badly: too little of it would be transferred.",
        found=f"{plan.too_little}; {counted(len(plan.unused), 'tensor')} of the file without a place\n{plan.table()}",
        expected="at least half",
        remedy="use plans with the architecture of the checkpoint, or allow it with --allow_little_transfer",
    )
