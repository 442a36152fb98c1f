"""What ``conformance.py`` calls: thin doors into the package."""

from __future__ import annotations

import numpy as np


def resample(
    array_cxyz, new_shape, current_spacing, new_spacing, *, is_seg, order, order_z, force_separate_z
) -> np.ndarray:
    from nnunet_pt.preprocessing.resample import resample_data_or_seg_to_shape

    return resample_data_or_seg_to_shape(
        array_cxyz,
        new_shape,
        current_spacing,
        new_spacing,
        is_seg=is_seg,
        order=order,
        order_z=order_z,
        force_separate_z=force_separate_z,
    )


def feature_map_size(network_class_name, arch_kwargs, *, input_channels, num_classes, patch_size) -> int:
    from nnunet_pt.networks.memory import feature_map_size as compute
    from nnunet_pt.plans.plans import Architecture

    del input_channels
    architecture = Architecture(network_class_name=network_class_name, arch_kwargs=arch_kwargs, requires_import=())
    return compute(architecture, patch_size, num_classes)


def sliding_window_steps(image_size, tile_size, step_size) -> list[list[int]]:
    from nnunet_pt.inference.sliding_window import sliding_window_steps as compute

    return compute(image_size, tile_size, step_size)


def gaussian_importance(tile_size) -> np.ndarray:
    from nnunet_pt.inference.sliding_window import gaussian_importance as compute

    return compute(tile_size)


def build_network(network_class_name, arch_kwargs, *, input_channels, num_classes, deep_supervision):
    from nnunet_pt.networks.build import build_network as build
    from nnunet_pt.plans.plans import Architecture

    return build(
        Architecture(network_class_name=network_class_name, arch_kwargs=arch_kwargs, requires_import=()),
        input_channels=input_channels,
        num_outputs=num_classes,
        deep_supervision=deep_supervision,
    )
