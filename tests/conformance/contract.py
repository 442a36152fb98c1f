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


def loss(kind, logits, target, *, batch_dice, ignore_label) -> float:
    from nnunet_pt.dataset.labels import Labels
    from nnunet_pt.training.losses import build_loss

    if kind == "dc_bce_regions":
        count = logits.shape[1]
        names = {"background": 0, **{f"r{i}": tuple(range(i, count + 1)) for i in range(1, count + 1)}}
        order = tuple(range(1, count + 1))
        if ignore_label is not None:
            names["ignore"] = count + 1
    else:
        names, order = {"background": 0, **{f"c{i}": i for i in range(1, logits.shape[1])}}, None
        if ignore_label is not None:
            names["ignore"] = ignore_label
    labels = Labels(labels=names, regions_class_order=order)
    name = {"dc_topk10": "dice_topk10"}.get(kind, "default")
    return float(build_loss(name, labels=labels, batch_dice=batch_dice, deep_supervision_weights=None)(logits, target))


def deep_supervision_weights(n) -> list[float]:
    from nnunet_pt.training.losses import deep_supervision_weights as compute

    return compute(n)


def lr_schedule(kind, *, initial_lr, num_epochs, warmup) -> list[float]:
    from nnunet_pt.training.schedules import linear_warmup, poly

    if kind == "linear_warmup_offset":
        return [linear_warmup(e, lr=initial_lr, epochs=num_epochs, start=warmup) for e in range(num_epochs)]
    if kind == "linear_warmup":
        return [linear_warmup(e, lr=initial_lr, epochs=warmup) for e in range(num_epochs)]
    start = warmup if kind == "poly_after_warmup" else 0
    return [poly(e, lr=initial_lr, start=start, end=num_epochs) for e in range(num_epochs)]


def initial_patch_size(patch_size, rotation_rad, scale_range) -> list[int]:
    from nnunet_pt.training.augmentation.geometry import initial_patch_size as compute

    return list(compute(patch_size, rotation_rad, scale_range))


def augment(
    image_cxyz, segmentation_1xyz, patch_size, *, rotation_rad, mirror_axes, dummy_2d, use_mask_for_norm, seed
) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from nnunet_pt.dataset.labels import Labels
    from nnunet_pt.training.augmentation.base import Sample
    from nnunet_pt.training.augmentation.default import AugmentationSettings, default_training_pipeline

    settings = AugmentationSettings(
        patch_size=tuple(patch_size),
        labels=Labels(labels={"background": 0}),
        rotation=tuple(rotation_rad),
        dummy_2d=dummy_2d,
        mirror_axes=tuple(mirror_axes or ()),
        use_mask_for_norm=tuple(use_mask_for_norm or ()),
    )
    sample = Sample(torch.from_numpy(image_cxyz).float(), torch.from_numpy(segmentation_1xyz).short())
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    augmented = default_training_pipeline(settings)(sample, random)
    return augmented.image.numpy(), augmented.segmentation.numpy()
