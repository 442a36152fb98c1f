"""From a fingerprint to configurations: spacing, patch and batch size, network.

Pure computation; :mod:`nnunet_pt.planning.planner` reads and writes the files. Intermediate numbers are float64 and
roundings go half to even, as in nnU-Net, so that the plans are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.networks.memory import NETWORK_KINDS, feature_map_size
from nnunet_pt.planning.presets import BASE_FEATURES, MAX_FEATURES, MIN_BATCH_SIZE, REFERENCE_BATCH_SIZE, PlannerPreset
from nnunet_pt.planning.topology import Topology, unet_topology
from nnunet_pt.plans.fingerprint import Fingerprint
from nnunet_pt.plans.legacy import CLASS_PATH, REQUIRES_IMPORT, unet_arguments
from nnunet_pt.plans.plans import Architecture
from nnunet_pt.preprocessing.resample import compute_new_shape

ANISOTROPY_THRESHOLD = 3
LOWRES_IF_PATCH_COVERS_LESS = 0.25
LOWRES_SPACING_STEP = 1.03
LOWRES_MIN_REDUCTION = 2
MASK_IF_CROPPED_TO_LESS = 0.75
INITIAL_VOXELS = {2: 2048**2, 3: 256**3}

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Everything the numbers of a configuration depend on, besides its spacing and the size of the images.

    Attributes:
        preset: The planner's numbers.
        gpu_memory_gb: GPU memory to plan for.
        preprocessor_name: Written into the configurations.
        plans_name: The plans identifier.
        num_outputs: Output channels of the network, as nnU-Net counts them for this purpose: entries in ``labels``.
        normalization_schemes: One for each channel.
        use_mask_for_norm: One for each channel.
    """

    preset: PlannerPreset
    gpu_memory_gb: float
    preprocessor_name: str
    plans_name: str
    num_outputs: int
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The geometry of a dataset as planning sees it; axes after transposition unless said otherwise.

    Attributes:
        transpose_forward: Permutation from reader order to plans order: the coarsest axis first.
        transpose_backward: The inverse.
        original_spacing: Median spacing, mm.
        original_shape: Median shape after cropping, voxels.
        target_spacing: Spacing of the full-resolution configurations, mm.
        median_shape: Median shape after resampling to it, voxels (may be x.5).
    """

    transpose_forward: tuple[int, ...]
    transpose_backward: tuple[int, ...]
    original_spacing: FloatArray
    original_shape: FloatArray
    target_spacing: FloatArray
    median_shape: FloatArray


def target_spacing(fingerprint: Fingerprint) -> FloatArray:
    """Spacing for full resolution, in reader order, mm.

    The median; along a much coarser axis with few slices the 10th percentile, so that fewer cases lose detail there.
    """
    spacings = np.array(fingerprint.spacings, dtype=np.float64)
    target: FloatArray = np.percentile(spacings, 50, 0)
    size = np.percentile(np.array(fingerprint.shapes_after_crop), 50, 0)
    worst = int(np.argmax(target))
    others = [a for a in range(len(target)) if a != worst]
    if target[worst] > ANISOTROPY_THRESHOLD * max(target[others]) and size[worst] * ANISOTROPY_THRESHOLD < min(
        size[others]
    ):
        finer = np.percentile(spacings[:, worst], 10)
        target[worst] = finer if finer >= max(target[others]) else max(target[others]) + 1e-5
    return target


def dataset_geometry(fingerprint: Fingerprint, overwrite_target_spacing: tuple[float, ...] | None) -> Geometry:
    """Target spacing, order of axes and sizes.

    Args:
        fingerprint: The dataset's fingerprint.
        overwrite_target_spacing: Target spacing in reader order, instead of the one from the fingerprint.
    """
    target = np.array(overwrite_target_spacing or target_spacing(fingerprint), dtype=np.float64)
    cases = zip(fingerprint.shapes_after_crop, fingerprint.spacings, strict=True)
    shapes = [compute_new_shape(shape, spacing, target.tolist()) for shape, spacing in cases]
    first = int(np.argmax(target))
    forward = [first, *(a for a in range(3) if a != first)]
    return Geometry(
        transpose_forward=tuple(forward),
        transpose_backward=tuple(forward.index(a) for a in range(3)),
        original_spacing=np.median(np.array(fingerprint.spacings, dtype=np.float64), 0)[forward],
        original_shape=np.median(np.array(fingerprint.shapes_after_crop), 0)[forward],
        target_spacing=target[forward],
        median_shape=np.median(np.array(shapes), 0)[forward],
    )


def plan_configurations(design: Design, geometry: Geometry, num_training: int) -> dict[str, dict[str, Any]]:
    """All configurations, as the plans file holds them and in its order.

    Args:
        design: What the configurations have in common.
        geometry: Spacing and sizes.
        num_training: Number of training cases.
    """
    spacing, median = geometry.target_spacing, geometry.median_shape
    voxels = float(np.prod(median, dtype=np.float64)) * num_training
    configurations = {"2d": plan_configuration(design, "2d", spacing[1:], median[1:], voxels)}
    if median[0] == 1:  # the dataset is two-dimensional
        return configurations
    full = plan_configuration(design, "3d_fullres", spacing, median, voxels)
    low = _plan_low_resolution(design, spacing, median, np.array(full["patch_size"]), num_training)
    full["batch_dice"] = low is not None
    if low is not None:
        configurations["3d_lowres"] = low | {"batch_dice": False, "next_stage": "3d_cascade_fullres"}
    configurations["3d_fullres"] = full
    if low is not None:
        configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return configurations


def _plan_low_resolution(
    design: Design, spacing: FloatArray, median: FloatArray, patch: NDArray[np.int64], num_training: int
) -> dict[str, Any] | None:
    """A coarser configuration of which a patch covers at least a quarter of a case, if one is worth it."""
    low_spacing, scaled = spacing.copy(), median
    covered, voxels = float(np.prod(patch, dtype=np.float64)), float(np.prod(median, dtype=np.float64))
    low: dict[str, Any] | None = None
    while covered / voxels < LOWRES_IF_PATCH_COVERS_LESS:
        finer = max(low_spacing) / low_spacing > 2
        low_spacing[finer if finer.any() else slice(None)] *= LOWRES_SPACING_STEP
        scaled = spacing / low_spacing * median
        voxels = float(np.prod(scaled, dtype=np.float64))
        shape = np.array([round(float(n)) for n in scaled])
        low = plan_configuration(design, "3d_lowres", low_spacing, shape, voxels * num_training)
        covered = float(np.prod(low["patch_size"], dtype=np.int64))
    if float(np.prod(median, dtype=np.float64)) / voxels < LOWRES_MIN_REDUCTION:
        return None
    return low


def plan_configuration(
    design: Design, name: str, spacing: FloatArray, median_shape: NDArray[Any], dataset_voxels: float
) -> dict[str, Any]:
    """One configuration as the plans file holds it.

    Args:
        design: What the configurations have in common.
        name: Its name.
        spacing: mm along each axis (two for ``2d``).
        median_shape: Median voxels along each axis.
        dataset_voxels: Voxels of the whole dataset at this spacing.
    """
    dimensions, preset = len(spacing), design.preset
    topology = unet_topology(spacing.tolist(), _initial_patch(spacing, median_shape))
    reference = preset.reference_size[dimensions] * (design.gpu_memory_gb / preset.gpu_memory_gb)
    batch = REFERENCE_BATCH_SIZE[dimensions]
    counted = batch / 2 if preset.size_of_two_patches else 1
    while _size(design, topology) / counted > reference:
        topology = _shrunk(topology, spacing, median_shape)
    fitting = round(reference / _size(design, topology) * batch)
    allowed = round(dataset_voxels * preset.max_dataset_covered / float(np.prod(topology.patch_size)))
    architecture = _architecture(preset, topology)
    resampling = preset.resampling
    return {
        "data_identifier": preset.data_identifier(design.plans_name, name),
        "preprocessor_name": design.preprocessor_name,
        "batch_size": max(min(fitting, allowed), MIN_BATCH_SIZE),
        "patch_size": list(topology.patch_size),
        "median_image_size_in_voxels": median_shape.tolist(),
        "spacing": spacing.tolist(),
        "normalization_schemes": list(design.normalization_schemes),
        "use_mask_for_norm": list(design.use_mask_for_norm),
        "resampling_fn_data": resampling.data.name,
        "resampling_fn_seg": resampling.seg.name,
        "resampling_fn_data_kwargs": dict(resampling.data.kwargs),
        "resampling_fn_seg_kwargs": dict(resampling.seg.kwargs),
        "resampling_fn_probabilities": resampling.probabilities.name,
        "resampling_fn_probabilities_kwargs": dict(resampling.probabilities.kwargs),
        "architecture": {
            "network_class_name": architecture.network_class_name,
            "arch_kwargs": dict(architecture.arch_kwargs),
            "_kw_requires_import": list(architecture.requires_import),
        },
        "batch_dice": True,
    }


def _initial_patch(spacing: FloatArray, median_shape: NDArray[Any]) -> list[float]:
    """A patch of equal physical extent along all axes, cut to the size of the images."""
    dimensions = len(spacing)
    inverse = 1 / spacing
    edges = inverse * (INITIAL_VOXELS[dimensions] / np.prod(inverse)) ** (1 / dimensions)
    return [min(round(float(e)), n) for e, n in zip(edges, median_shape.tolist(), strict=True)]


def _shrunk(topology: Topology, spacing: FloatArray, median_shape: NDArray[Any]) -> Topology:
    """The topology of the next smaller patch: shorter along the axis that covers most of the image."""
    patch = list(topology.patch_size)
    axis = int(np.argsort([p / n for p, n in zip(patch, median_shape.tolist(), strict=True)])[-1])
    trial = list(patch)
    trial[axis] -= topology.divisible_by[axis]
    # The trial tells by how much the shorter patch must be divisible; that is what is taken off.
    patch[axis] -= unet_topology(spacing.tolist(), trial).divisible_by[axis]
    return unet_topology(spacing.tolist(), patch)


def _architecture(preset: PlannerPreset, topology: Topology) -> Architecture:
    """The planner's network with a topology."""
    stages = len(topology.strides)
    largest = MAX_FEATURES[len(topology.patch_size)]
    return Architecture(
        network_class_name=CLASS_PATH + preset.network,
        arch_kwargs=unet_arguments(
            blocks_key=NETWORK_KINDS[preset.network].blocks_key,
            features=[min(largest, BASE_FEATURES * 2**s) for s in range(stages)],
            kernels=topology.kernels,
            strides=topology.strides,
            encoder=preset.encoder[:stages],
            decoder=preset.decoder[: stages - 1],
        ),
        requires_import=REQUIRES_IMPORT,
    )


def _size(design: Design, topology: Topology) -> int:
    """Feature-map size of the planner's network for one patch."""
    return feature_map_size(_architecture(design.preset, topology), topology.patch_size, design.num_outputs)
