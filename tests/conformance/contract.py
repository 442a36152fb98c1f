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
