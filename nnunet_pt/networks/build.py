"""The network that the plans describe, from a fixed table of networks: nothing is imported by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from torch import nn

from nnunet_pt.core.registry import Registry
from nnunet_pt.networks.blocks import initialise_he
from nnunet_pt.networks.plain_unet import PlainConvUNet
from nnunet_pt.networks.primus import (
    PRESET,
    SIZES,
    Primus,
    PrimusDescription,
    Version,
    initialise_primus,
    pretraining_arguments,
)
from nnunet_pt.networks.residual_unet import RESENC_L, ResidualEncoderUNet
from nnunet_pt.networks.unet import UNetDescription
from nnunet_pt.plans.plans import Architecture
from nnunet_pt.plans.reading import Findings, ObjectReader


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """A network to build.

    Attributes:
        reader: Arguments of the network; problems are noted in its findings.
        input_channels: Channels of the image.
        num_outputs: Output channels.
        deep_supervision: Whether the network gives an output at every resolution.
        patch_size: Voxels along each axis, if known.
    """

    reader: ObjectReader
    input_channels: int
    num_outputs: int
    deep_supervision: bool
    patch_size: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEntry:
    """A kind of network.

    Attributes:
        build: Builds it; the findings of the request's reader are raised in it before anything is built.
        initialise: Draws its weights.
        preset: Values of arguments that the plans lack.
        translate: Turns the arguments in the plans into those of the network.
    """

    build: Callable[[NetworkRequest], nn.Module]
    initialise: Callable[[nn.Module], None] = initialise_he
    preset: Mapping[str, Any] = field(default_factory=dict)
    translate: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict


FROM_SCRATCH_DROP_PATH: Final = 0.2


def _plain_unet(request: NetworkRequest) -> nn.Module:
    description = _unet_description(request, "n_conv_per_stage", ("nonlin_first",))
    return PlainConvUNet(
        description,
        input_channels=request.input_channels,
        num_outputs=request.num_outputs,
        deep_supervision=request.deep_supervision,
    )


def _residual_encoder_unet(request: NetworkRequest) -> nn.Module:
    description = _unet_description(request, "n_blocks_per_stage", ("stem_channels",))
    return ResidualEncoderUNet(
        description,
        input_channels=request.input_channels,
        num_outputs=request.num_outputs,
        deep_supervision=request.deep_supervision,
    )


def _unet_description(request: NetworkRequest, blocks_key: str, extra_keys: Sequence[str]) -> UNetDescription:
    description = UNetDescription.read(request.reader, blocks_key=blocks_key, extra_keys=extra_keys)
    if request.patch_size is not None and not request.reader.findings.items:
        description.check_patch(request.patch_size, request.reader)
    request.reader.findings.raise_if_any()
    return description


def _primus(request: NetworkRequest, version: Version) -> nn.Module:
    reader = request.reader
    description = PrimusDescription.read(reader, patch_size=request.patch_size, version=version)
    reader.findings.raise_if_any()
    return Primus(
        description,
        input_channels=request.input_channels,
        num_outputs=request.num_outputs,
        deep_supervision=request.deep_supervision,
    )


def _primus_entries() -> dict[str, NetworkEntry]:
    """Each version with explicit sizes (``PrimusV2``) and as named sizes (``PrimusV2M``)."""
    entries = {
        "PrimusX": NetworkEntry(
            build=partial(_primus, version=1),
            initialise=initialise_primus,
            preset={"drop_path_rate": FROM_SCRATCH_DROP_PATH},  # as nnU-Net fine-tunes it
            translate=pretraining_arguments,
        )
    }
    versions: dict[str, Version] = {"Primus": 1, "PrimusV2": 2, "PrimusV3": 3}
    for name, version in versions.items():
        build = partial(_primus, version=version)
        standard = {**PRESET, "drop_path_rate": FROM_SCRATCH_DROP_PATH} if version == 3 else {}
        entries[name] = NetworkEntry(build=build, initialise=initialise_primus, preset=standard)
        for size, sizes in SIZES.items():
            preset = {**PRESET, **standard, **sizes}
            entries[name + size] = NetworkEntry(build=build, initialise=initialise_primus, preset=preset)
    return entries


NETWORKS: Registry[NetworkEntry] = Registry(
    "network class",
    {
        "PlainConvUNet": NetworkEntry(build=_plain_unet),
        "ResidualEncoderUNet": NetworkEntry(build=_residual_encoder_unet),
        "ResEncL": NetworkEntry(build=_residual_encoder_unet, preset=RESENC_L),
        **_primus_entries(),
    },
)


def build_network(
    architecture: Architecture,
    *,
    input_channels: int,
    num_outputs: int,
    deep_supervision: bool,
    patch_size: Sequence[int] | None = None,
    initialise: bool = True,
) -> nn.Module:
    """Build the network that the plans describe.

    Every network has the attributes ``deep_supervision`` (may be changed; False: one tensor, True: a list, highest
    resolution first) and ``output_strides`` (voxels of the patch for one voxel of each output, along each axis).

    Args:
        architecture: The network as the plans describe it.
        input_channels: Channels of the image.
        num_outputs: Output channels.
        deep_supervision: Whether the network gives an output at every resolution.
        patch_size: Voxels along each axis; networks of fixed input size need it, for others it is only checked.
        initialise: Whether to draw the weights; False saves time if weights are loaded anyway.

    Raises:
        UnknownNameError: If there is no such network.
        PlansError: If arguments are missing or wrong, with all findings.
    """
    entry = NETWORKS[architecture.short_name]
    findings = Findings("network description", architecture.network_class_name)
    arguments = {**entry.preset, **entry.translate(architecture.arch_kwargs)}
    request = NetworkRequest(
        reader=ObjectReader(arguments, findings),
        input_channels=input_channels,
        num_outputs=num_outputs,
        deep_supervision=deep_supervision,
        patch_size=None if patch_size is None else tuple(patch_size),
    )
    network = entry.build(request)
    if initialise:
        entry.initialise(network)
    return network


def named_architecture(name: str) -> Architecture:
    """A network that is known by name alone, as it is trained from scratch: ``ResEncL``, ``PrimusM``, ``PrimusV2S``...

    Raises:
        UnknownNameError: If there is no such network.
    """
    if "embed_dim" in NETWORKS[name].preset:
        return Architecture(
            network_class_name=name, arch_kwargs={"drop_path_rate": FROM_SCRATCH_DROP_PATH}, requires_import=()
        )
    return Architecture(network_class_name=name, arch_kwargs={}, requires_import=())


def with_batch_norm(architecture: Architecture) -> Architecture:
    """The same network with batch normalisation in place of its normalisation (eps 1e-5, affine).

    Raises:
        PlansError: If the network has no convolutions to normalise.
    """
    findings = Findings("network description for batch normalisation", architecture.network_class_name)
    conv = architecture.arch_kwargs.get("conv_op")
    if not isinstance(conv, str) or conv[-2:] not in ("2d", "3d"):
        findings.add("conv_op", f"is {conv!r}, expected the name of a convolution")
    findings.raise_if_any()
    norm = {
        "norm_op": f"torch.nn.modules.batchnorm.BatchNorm{str(conv)[-2:]}",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    }
    names = architecture.requires_import
    return replace(
        architecture,
        arch_kwargs={**architecture.arch_kwargs, **norm},
        requires_import=names if "norm_op" in names else (*names, "norm_op"),
    )
