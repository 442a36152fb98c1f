"""What is in a file of weights, and what a network of a dataset would get from it; nothing is trained or changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from nnunet_pt.core.console import table
from nnunet_pt.core.errors import PlansError
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.networks.build import build_network
from nnunet_pt.networks.trainer_networks import network_of_trainer
from nnunet_pt.plans.plans import Plans
from nnunet_pt.plans.pretrain_info import citation_lines
from nnunet_pt.transfer.account import TransferPlan
from nnunet_pt.transfer.names import SEGMENTATION_LAYERS, stage_of
from nnunet_pt.transfer.nnssl import nnssl_settings
from nnunet_pt.transfer.plan import Policy, TransferSettings, plan_transfer
from nnunet_pt.transfer.source import PretrainedSource, input_names, output_names, read_source

_KINDS = {
    "nnunet": "checkpoint of nnU-Net",
    "nnunet_v1": "model of nnU-Net version 1",
    "nnssl": "checkpoint of nnssl pre-training",
    "weights": "weights without a description",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRequest:
    """The network that shall get the weights.

    Attributes:
        dataset: Number or name of the dataset.
        plans_name: Its plans.
        configuration: The configuration.
        trainer: Name of the trainer, of which some change the network.
        policy: See :func:`nnunet_pt.transfer.plan.plan_transfer`; None for nnssl's rules where the plans follow a
            pre-training and no layers are chosen, else for ``adapt``.
        layers: Parts to transfer; None for all.
        heads: See :class:`nnunet_pt.transfer.plan.TransferSettings`.
        fix_token_axes: See there.
    """

    dataset: int | str
    plans_name: str = "nnUNetPlans"
    configuration: str = "3d_fullres"
    trainer: str = "nnUNetTrainer"
    policy: Policy | None = None
    layers: tuple[str, ...] | None = None
    heads: Literal["auto", "none"] = "auto"
    fix_token_axes: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        source: The file.
        plan: What the network would get; None if none was asked for.
    """

    source: PretrainedSource
    plan: TransferPlan | None = None

    def __str__(self) -> str:
        lines = [f"{name + ':':<17} {text}" for name, text in self._facts() if text]
        rows = [[stage, str(tensors), f"{count:,}"] for stage, tensors, count in self._stages()]
        lines += ["", table(rows, ["stage", "tensors", "parameters"])]
        if cited := citation_lines(self.source.citations):
            lines += ["", "please cite:", *(f"  {line}" for line in cited)]
        if self.plan is not None:
            lines += ["", f"Transfer ({self.plan.policy}): {self.plan}"]
            if self.plan.too_little is not None:
                lines += ["", f"A training would refuse this (--allow_little_transfer): {self.plan.too_little}."]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        source, architecture, adaptation = self.source, self.source.architecture, self.source.adaptation_plan
        stages = self._stages()
        return {
            "path": str(source.path),
            "kind": source.kind,
            "bytes": source.path.stat().st_size,
            "sha256": source.sha256,
            "architecture": None if architecture is None else architecture.network_class_name,
            "architecture_kwargs": None if architecture is None else dict(architecture.arch_kwargs),
            "trainer_name": source.trainer_name,
            "configuration": source.configuration,
            "patch_size": source.patch_size,
            "channel_names": source.channel_names,
            "label_names": source.label_names,
            "adaptation_plan": None if adaptation is None else adaptation.to_json(),
            "citations": list(source.citations),
            "tensors": len(source.weights),
            "parameters": sum(count for _, _, count in stages),
            "stages": [{"stage": s, "tensors": n, "parameters": count} for s, n, count in stages],
            "names_with_other_values": list(source.stale),
            "transfer": None if self.plan is None else self.plan.to_json(),
        }

    def _facts(self) -> list[tuple[str, str]]:
        source, architecture, adaptation = self.source, self.source.architecture, self.source.adaptation_plan
        facts = [
            ("file", f"{source.path} ({source.path.stat().st_size:,} bytes)"),
            ("kind", _KINDS[source.kind]),
            ("SHA-256", source.sha256),
            ("network", architecture.short_name if architecture is not None else ""),
            ("trainer", source.trainer_name or ""),
            ("configuration", source.configuration or ""),
            ("patch size", _sizes(source.patch_size)),
            ("input channels", ", ".join(source.channel_names or ())),
            ("outputs", ", ".join(source.label_names or ())),
        ]
        if adaptation is not None:
            facts += [
                ("input channels", str(adaptation.num_input_channels)),
                ("for fine-tuning", f"patch size {_sizes(adaptation.recommended_patch_size)}"),
                ("spacing", _sizes(adaptation.spacing, " mm") or adaptation.spacing_style or "not said"),
                ("adaptation plan", "in the file" if adaptation.source == str(source.path) else adaptation.source),
            ]
        if source.stale:
            facts.append(("note", f"{len(source.stale)} tensors have a second name with other values, not used"))
        return facts

    def _stages(self) -> list[tuple[str, int, int]]:
        """Name, number of tensors and number of values of each stage, in the order of the file."""
        sums: dict[str, tuple[int, int]] = {}
        for name, tensor in self.source.weights.items():
            stage = stage_of(name, "heads" if SEGMENTATION_LAYERS in name else "other")
            tensors, count = sums.get(stage, (0, 0))
            sums[stage] = (tensors + 1, count + tensor.numel())
        return [(stage, tensors, count) for stage, (tensors, count) in sums.items()]


def inspect_weights(path: Path, target: TargetRequest | None = None, workspace: Workspace | None = None) -> Inspection:
    """Say what is in a file, and what a network would get from it.

    Args:
        path: The file.
        target: The network, if one is asked for.
        workspace: Where its plans are; that of the environment by default.

    Raises:
        CheckpointError: If the file cannot be used, or with ``strict`` if it does not fit.
        PlansError: If there are no such plans.
    """
    source = read_source(path)
    if target is None:
        return Inspection(source=source)
    folder = (workspace or Workspace.from_environment()).preprocessed
    folder = folder / resolve_dataset_name(target.dataset, workspace or Workspace.from_environment())
    plans = Plans.load(folder / f"{target.plans_name}.json")
    if not (folder / DATASET_FILE).is_file():
        raise PlansError(
            f"There is no {folder / DATASET_FILE}.",
            remedy=f"make it with  nnUNetv2_plan_and_preprocess -d {target.dataset} --no_pp",
        )
    description = DatasetDescription.load(folder / DATASET_FILE)
    network, patch_size, cascaded = _network(plans, description, target)
    settings = TransferSettings(
        layers=target.layers,
        heads=target.heads,
        fix_token_axes=target.fix_token_axes,
        allow_little=True,
        target_channels=input_names(description, cascaded=cascaded),
        target_labels=output_names(description),
        target_patch_size=patch_size,
    )
    if plans.pretrain_info is not None and target.policy is None and target.layers is None:
        settings = nnssl_settings(
            source,
            target_patch_size=patch_size,
            info=plans.pretrain_info,
            fix_token_axes=target.fix_token_axes,
            allow_little=True,
        )
    plan = plan_transfer(network, source, policy=target.policy or "adapt", settings=settings)
    return Inspection(source=source, plan=plan)


def _network(
    plans: Plans, description: DatasetDescription, target: TargetRequest
) -> tuple[nn.Module, tuple[int, ...], bool]:
    """The network that would be trained, its patch size, and whether it is the second stage of a cascade."""
    configuration, labels = plans.configuration(target.configuration), Labels.from_description(description)
    changes = network_of_trainer(target.trainer)
    patch_size = changes.patch_size or configuration.patch_size
    cascaded = configuration.previous_stage is not None
    network = build_network(
        changes.architecture(configuration.architecture),
        input_channels=description.num_channels + (len(labels.foreground_labels) if cascaded else 0),
        num_outputs=labels.num_segmentation_heads,
        deep_supervision=False,
        patch_size=patch_size,
    )
    return network, patch_size, cascaded


def _sizes(values: tuple[float, ...] | None, unit: str = "") -> str:
    return "" if values is None else " x ".join(f"{v:g}" for v in values) + unit
