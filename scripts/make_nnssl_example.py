"""Write a checkpoint in the format of nnssl, to try out fine-tuning without a download.

The network is a small residual U-Net with random weights: everything works with it as with a real pre-training, but
nothing has been learned, and its voxels are as large as those of the artificial datasets. Real ones are on the Hugging
Face hub, see documentation/tutorials/finetune-from-nnssl.md.

    python scripts/make_nnssl_example.py checkpoint_final.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NETWORK: Mapping[str, Any] = {
    "n_stages": 4,
    "features_per_stage": [8, 16, 32, 64],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 3],
    "n_blocks_per_stage": [1, 2, 2, 2],
    "n_conv_per_stage_decoder": [1, 1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
CLASSES = ("conv_op", "norm_op", "dropout_op", "nonlin")
STEM = "encoder.stem.convs.0"


def make_checkpoint(
    path: Path,
    network: Mapping[str, Any] = NETWORK,
    *,
    patch_size: Sequence[int] = (32, 48, 64),
    spacing_mm: Sequence[float] = (5.0, 5.0, 5.0),
) -> None:
    """Write weights and the plan by which they can be adapted.

    Args:
        path: File to write.
        network: Arguments of a ``ResidualEncoderUNet``.
        patch_size: Of the pre-training, voxels.
        spacing_mm: Of the images of the pre-training.
    """
    import torch

    from nnunet_pt.networks.build import build_network
    from nnunet_pt.plans.configuration import Architecture

    torch.manual_seed(0)
    weights = build_network(
        Architecture(network_class_name="ResidualEncoderUNet", arch_kwargs=dict(network), requires_import=CLASSES),
        input_channels=1,
        num_outputs=1,
        deep_supervision=False,
    ).state_dict()
    plan = {
        "architecture_plans": {
            "arch_class_name": "ResidualEncoderUNet",
            "arch_kwargs": dict(network),
            "arch_kwargs_requiring_import": list(CLASSES),
        },
        "pretrain_plan": {
            "configurations": {"onemmiso": {"patch_size": list(patch_size), "spacing": list(spacing_mm)}}
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": list(patch_size),
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": [f"{STEM}.conv", f"{STEM}.all_modules.0"],
        "key_to_lpe": None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": weights, "nnssl_adaptation_plan": plan}, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file to write")
    args = parser.parse_args()
    make_checkpoint(args.checkpoint)
    print(f"{args.checkpoint}: a network with random weights, pre-trained on nothing, in the format of nnssl")


if __name__ == "__main__":
    main()
