"""The networks of a plans file: their stages, weights and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.networks.build import NETWORKS, build_network
from nnunet_pt.networks.unet import UNetDescription
from nnunet_pt.planning.summary import estimated_memory_gb
from nnunet_pt.plans.plans import Architecture, Configuration, Plans
from nnunet_pt.plans.reading import Findings, ObjectReader
from nnunet_pt.report.plans_drawings import Stage, unet_stages

BLOCKS_KEYS: Final = {
    "PlainConvUNet": "n_conv_per_stage",
    "ResidualEncoderUNet": "n_blocks_per_stage",
    "ResEncL": "n_blocks_per_stage",
}
EXTRA_KEYS: Final = ("nonlin_first", "stem_channels")
ASSUMED_OUTPUTS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A configuration with what the page says about its network.

    Attributes:
        configuration: The configuration.
        spacing: Target spacing along the axes of the patch, mm; of the median case where each case keeps its own.
        input_channels: Channels that go into the network.
        num_outputs: Channels that come out.
        stages: Of a U-Net; empty for other networks.
        parameters: Number of weights; None if the network cannot be built.
        memory_gb: Estimated; None if there is no rule for this network.
        problem: Why the network cannot be built.
    """

    configuration: Configuration
    spacing: tuple[float, ...]
    input_channels: int
    num_outputs: int
    stages: tuple[Stage, ...]
    parameters: int | None
    memory_gb: float | None
    problem: str = ""

    @property
    def residual(self) -> bool:
        """Whether the encoder has residual blocks."""
        return self.configuration.architecture.short_name != "PlainConvUNet"

    @property
    def coverage(self) -> tuple[float, ...]:
        """Share of the median image that a patch covers along each axis, at most 1."""
        median = self.configuration.median_image_size_in_voxels
        return tuple(min(1.0, p / m) for p, m in zip(self.configuration.patch_size, median, strict=True))


def planned_network(plans: Plans, configuration: Configuration, description: DatasetDescription | None) -> Planned:
    """What there is to say about the network of a configuration.

    Args:
        plans: The plans.
        configuration: One of them.
        description: The dataset; None if nothing is known of it but the plans.
    """
    labels = Labels.from_description(description) if description is not None else None
    outputs = labels.num_segmentation_heads if labels is not None else ASSUMED_OUTPUTS
    channels = len(configuration.normalization_schemes)
    if configuration.previous_stage is not None:
        channels += len(labels.foreground_labels) if labels is not None else ASSUMED_OUTPUTS - 1
    spacing = configuration.spacing_for(plans.original_median_spacing_after_transp)
    stages: tuple[Stage, ...] = ()
    parameters, problem = None, ""
    try:
        stages = network_stages(configuration)
        parameters = _parameters(configuration, channels, outputs)
    except NnunetError as error:
        problem = str(error)
    return Planned(
        configuration=configuration,
        spacing=spacing[-len(configuration.patch_size) :],
        input_channels=channels,
        num_outputs=outputs,
        stages=stages,
        parameters=parameters,
        memory_gb=estimated_memory_gb(plans, configuration, outputs),
        problem=problem,
    )


def network_arguments(architecture: Architecture) -> dict[str, Any]:
    """The arguments of the network, with those that its name implies."""
    entry = NETWORKS[architecture.short_name]
    return {**entry.preset, **entry.translate(architecture.arch_kwargs)}


def network_stages(configuration: Configuration) -> tuple[Stage, ...]:
    """The stages of a U-Net; none for other networks.

    Raises:
        UnknownNameError: If there is no such network.
        PlansError: If its description is wrong, or the patch does not fit it.
    """
    architecture = configuration.architecture
    name = architecture.short_name
    if name not in BLOCKS_KEYS:
        return ()
    findings = Findings("network description", architecture.network_class_name)
    reader = ObjectReader(network_arguments(architecture), findings)
    description = UNetDescription.read(reader, blocks_key=BLOCKS_KEYS[name], extra_keys=EXTRA_KEYS)
    findings.raise_if_any()
    description.check_patch(configuration.patch_size, reader)
    findings.raise_if_any()
    return tuple(unet_stages(description, configuration.patch_size, residual=name != "PlainConvUNet"))


def _parameters(configuration: Configuration, input_channels: int, num_outputs: int) -> int:
    """Number of weights; nothing is allocated."""
    import torch

    with torch.device("meta"):
        network = build_network(
            configuration.architecture,
            input_channels=input_channels,
            num_outputs=num_outputs,
            deep_supervision=False,
            patch_size=configuration.patch_size,
            initialise=False,
        )
    return sum(weight.numel() for weight in network.parameters())
