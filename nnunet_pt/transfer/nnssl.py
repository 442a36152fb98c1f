"""What nnssl's fine-tuning trainers transfer: stem and encoder, nothing of the decoder, whatever would fit."""

from __future__ import annotations

from nnunet_pt.plans.pretrain_info import PretrainInfo
from nnunet_pt.transfer.adaptation_plan import NetworkKeys
from nnunet_pt.transfer.plan import TransferSettings
from nnunet_pt.transfer.source import PretrainedSource


def nnssl_settings(
    source: PretrainedSource,
    *,
    target_patch_size: tuple[int, ...] | None = None,
    info: PretrainInfo | None = None,
    fix_token_axes: bool = False,
    allow_little: bool = False,
) -> TransferSettings:
    """The settings of :func:`nnunet_pt.transfer.plan.plan_transfer` (policy ``adapt``) that do what the originals do.

    The input projection is repeated for more channels, kernels are averaged along axes that become 1, the positional
    embedding is resized; layers of other widths, decoder and segmentation layers keep their initialisation.

    Args:
        source: The checkpoint. What its adaptation plan says goes before what the plans say.
        target_patch_size: The network's patch size.
        info: The ``pretrain_info`` of the plans, for a checkpoint without an adaptation plan.
        fix_token_axes: Put right the order of tokens of EvaMAE checkpoints, which the originals do not.
        allow_little: Accept that less than half of the encoder is transferred.

    Raises:
        CheckpointError: If neither the checkpoint nor the plans describe the pre-trained network.
    """
    keys, patch_size = None, source.patch_size
    if source.adaptation_plan is not None:
        keys = source.adaptation_plan.keys
    elif info is not None and info.key_to_encoder and info.key_to_stem:
        keys = NetworkKeys(
            encoder=info.key_to_encoder, stem=info.key_to_stem, in_proj=info.keys_to_in_proj, positions=info.key_to_lpe
        )
        patch_size = info.pt_used_patchsize or None
    else:
        keys = source.require_adaptation_plan().keys
    return TransferSettings(
        heads="none",
        decoder=False,
        width=False,
        fix_token_axes=fix_token_axes,
        allow_little=allow_little,
        source_keys=keys,
        source_patch_size=patch_size,
        target_patch_size=target_patch_size,
    )
