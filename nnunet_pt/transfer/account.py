"""The account of a transfer: for every tensor of the target where its values come from, and why not if they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nnunet_pt.core.console import table
from nnunet_pt.transfer.names import Part
from nnunet_pt.transfer.weights import bare_network

Action = Literal["copied", "adapted", "skipped", "initial"]
ACTIONS: tuple[Action, ...] = ("copied", "adapted", "skipped", "initial")
PARTS: tuple[Part, ...] = ("stem", "encoder", "decoder", "heads", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTransfer:
    """What happens to one tensor of the target.

    Attributes:
        target: Its name, the first in the state dict.
        source: Name of its counterpart in the file; None if there is none.
        action: ``copied``; ``adapted``: something was changed or only a part is taken; ``skipped``: the counterpart is
            not used; ``initial``: there is no counterpart. In the last two cases the values of the initialisation stay.
        how: How it is adapted or why it is not used.
        target_shape: Its shape.
        source_shape: Shape of the counterpart.
        parameters: Its number of values.
        transferred: How many of them come from the source.
        part: Part of the network.
        stage: Row of the account.
    """

    target: str
    source: str | None
    action: Action
    how: str
    target_shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None
    parameters: int
    transferred: int
    part: Part
    stage: str

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShare:
    """Sums over the tensors of one stage.

    Attributes:
        stage: Its name.
        part: Part of the network.
        tensors: How many tensors were treated in which way.
        parameters: Number of values.
        transferred: How many of them come from the source.
        notes: How tensors were adapted and why they were not used, each text once.
    """

    stage: str
    part: Part
    tensors: Mapping[Action, int]
    parameters: int
    transferred: int
    notes: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the parameters that come from the source."""
        return self.transferred / self.parameters if self.parameters else 0.0

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "stage": self.stage,
            "part": self.part,
            **{str(action): count for action, count in self.tensors.items()},
            "parameters": self.parameters,
            "transferred": self.transferred,
            "share": self.share,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPlan:
    """What will be transferred; nothing is changed before :meth:`apply`.

    Attributes:
        tensors: Every distinct tensor of the target once, in the order of its state dict.
        path: The file.
        kind: What kind of file it is.
        sha256: Its digest.
        policy: ``strict``, ``match`` or ``adapt``.
        unused: Tensors in the file that have no place in the target.
        notes: What is to be said about the transfer as a whole.
        too_little: Why a training would refuse the transfer unless that is allowed; None if enough is taken.
        values: Target name to a function that gives its new values from the present ones.
    """

    tensors: tuple[TensorTransfer, ...]
    path: Path
    kind: str
    sha256: str
    policy: str
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    too_little: str | None = None
    values: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def apply(self, network: nn.Module) -> None:
        """Give the network the values; a second time changes nothing.

        Args:
            network: The network that the plan was made for, or an equal one; wrappers are looked through.
        """
        state = bare_network(network).state_dict(keep_vars=True)
        with torch.no_grad():
            for name, new_values in self.values.items():
                state[name].copy_(new_values(state[name]))

    @property
    def used(self) -> tuple[TensorTransfer, ...]:
        """The tensors that get values from the source."""
        return tuple(t for t in self.tensors if t.action in ("copied", "adapted"))

    def share(self, *parts: Part) -> float:
        """Share of the parameters that come from the source.

        Args:
            parts: Only of these parts of the network; all without any.
        """
        chosen = [t for t in self.tensors if not parts or t.part in parts]
        total = sum(t.parameters for t in chosen)
        return sum(t.transferred for t in chosen) / total if total else 0.0

    @property
    def encoder_share(self) -> float:
        """Share of the parameters of stem and encoder that come from the source."""
        return self.share("stem", "encoder")

    def stages(self) -> tuple[StageShare, ...]:
        """The account by stage: stem, encoder from the top, decoder from the bottom, segmentation layers, others."""
        groups: dict[tuple[Part, str], list[TensorTransfer]] = {}
        for part in PARTS:
            for tensor in self.tensors:
                if tensor.part == part:
                    groups.setdefault((part, tensor.stage), []).append(tensor)
        return tuple(_sum_up(stage, part, members) for (part, stage), members in groups.items())

    def parts(self) -> tuple[StageShare, ...]:
        """The account by part of the network."""
        groups = {part: [t for t in self.tensors if t.part == part] for part in PARTS}
        return tuple(_sum_up(part, part, members) for part, members in groups.items() if members)

    def table(self) -> str:
        """The account by stage as text."""
        rows = [
            [s.stage, *(str(s.tensors[a] or "") for a in ACTIONS), f"{s.parameters:,}", percent(s.share), _short(s)]
            for s in self.stages()
        ]
        total = _sum_up("all", "other", self.tensors)
        rows.append(["all", *(str(total.tensors[a]) for a in ACTIONS), f"{total.parameters:,}", percent(total.share)])
        return table(rows, ["stage", *ACTIONS, "parameters", "from file", "notes"])

    def summary(self) -> str:
        """One sentence."""
        used = self.used
        adapted = sum(t.action == "adapted" for t in used)
        return (
            f"{len(used)} of {len(self.tensors)} tensors come from {self.path} ({adapted} of them adapted): "
            f"{percent(self.share())} of all parameters, {percent(self.encoder_share)} of the encoder"
        )

    def __str__(self) -> str:
        return "\n".join([self.summary(), *self.notes, self.table()])

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``transfer_report.json``."""
        return {
            "source": {"path": str(self.path), "kind": self.kind, "sha256": self.sha256},
            "policy": self.policy,
            "share": self.share(),
            "encoder_share": self.encoder_share,
            "too_little": self.too_little,
            "notes": list(self.notes),
            "parts": [p.to_json() for p in self.parts()],
            "stages": [s.to_json() for s in self.stages()],
            "tensors": [t.to_json() for t in self.tensors],
            "unused_in_source": list(self.unused),
        }


def percent(share: float) -> str:
    """A share as people read it: 0 % and 100 % only if it is nothing and everything."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def _sum_up(stage: str, part: Part, members: Iterable[TensorTransfer]) -> StageShare:
    tensors = list(members)
    return StageShare(
        stage=stage,
        part=part,
        tensors={action: sum(t.action == action for t in tensors) for action in ACTIONS},
        parameters=sum(t.parameters for t in tensors),
        transferred=sum(t.transferred for t in tensors),
        notes=tuple(dict.fromkeys(t.how for t in tensors if t.how)),
    )


def _short(stage: StageShare) -> str:
    more = f" (and {len(stage.notes) - 1} more)" if len(stage.notes) > 1 else ""
    return stage.notes[0] + more if stage.notes else ""
