"""From the network's output back to the image it was given: resampling, uncropping, files."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_pt.core.files import write_bytes
from nnunet_pt.dataset.images.base import ImageReaderWriter
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference.probabilities import write_probabilities
from nnunet_pt.plans.plans import Configuration, Plans, ResamplingSpec
from nnunet_pt.preprocessing.blosc_layout import blocks_and_chunks
from nnunet_pt.preprocessing.crop import as_slices
from nnunet_pt.preprocessing.resample import RESAMPLERS, resample_scores_to_labels

Logits = NDArray[Any]

_STREAMED = "resample_data_or_seg_to_shape"
# The sigmoid of a smaller logit is 0.5 in float32, which is not more than 0.5
_EVEN = 2.0**-23


@dataclass(frozen=True, slots=True, kw_only=True)
class Regridding:
    """From one grid to another.

    Attributes:
        shape: New extents.
        current_spacing: Voxel size now, mm.
        new_spacing: Voxel size afterwards, mm.
        spec: How to resample.
        threads: Number of threads.
    """

    shape: tuple[int, ...]
    current_spacing: tuple[float, ...]
    new_spacing: tuple[float, ...]
    spec: ResamplingSpec
    threads: int = 1

    def resample(self, scores_cxyz: Logits) -> Logits:
        """All channels on the new grid, in the type of the input or in float32."""
        resampler = RESAMPLERS[self.spec.name]
        return resampler(
            scores_cxyz, self.shape, self.current_spacing, self.new_spacing, threads=self.threads, **self.spec.kwargs
        )

    def channels(self, scores_cxyz: Logits) -> Iterator[Logits]:
        """The channels on the new grid, one after another."""
        for channel in range(len(scores_cxyz)):
            yield self.resample(scores_cxyz[channel : channel + 1])[0]


def to_original_grid(
    properties: Mapping[str, Any], plans: Plans, configuration: Configuration, *, threads: int = 1
) -> Regridding:
    """From the grid of a configuration to that of the cropped image.

    Args:
        properties: What preprocessing noted about the case.
        plans: The plans.
        configuration: The configuration that was predicted with.
        threads: Number of threads.
    """
    original = tuple(float(properties["spacing"][a]) for a in plans.transpose_forward)
    return Regridding(
        shape=tuple(int(n) for n in properties["shape_after_cropping_and_before_resampling"]),
        current_spacing=configuration.spacing_for(original),
        new_spacing=original,
        spec=configuration.resampling_probabilities,
        threads=threads,
    )


def resampled_segmentation(logits_cxyz: Logits, grid: Regridding, labels: Labels) -> NDArray[Any]:
    """Resample logits and decide which class each voxel belongs to, without ever holding all resampled classes.

    Args:
        logits_cxyz: Network output, one channel for each class or region.
        grid: Where to.
        labels: The labels of the dataset.

    Returns:
        Label of each voxel of the new grid, of an unsigned integer type.
    """
    if len(logits_cxyz) != labels.num_segmentation_heads:
        raise ValueError(f"{len(logits_cxyz)} channels for {labels.num_segmentation_heads} labels or regions")
    result = np.zeros(grid.shape, label_type(labels))
    if labels.has_regions:
        for logits, value in zip(grid.channels(logits_cxyz), labels.regions_class_order or (), strict=True):
            result[logits > _EVEN] = value
        return result
    kwargs = {k: v for k, v in grid.spec.kwargs.items() if k != "is_seg"}
    if logits_cxyz.shape[1:] == grid.shape:
        _running_argmax(iter(logits_cxyz), result)
    elif grid.spec.name == _STREAMED and kwargs.get("order", 3) <= 1 and kwargs.get("order_z", 0) <= 1:
        result[...] = resample_scores_to_labels(
            logits_cxyz, grid.shape, grid.current_spacing, grid.new_spacing, threads=grid.threads, **kwargs
        )
    else:
        _running_argmax(grid.channels(logits_cxyz), result)
    return result


def _running_argmax(channels: Iterator[Logits], out: NDArray[Any]) -> None:
    """The index of the largest channel, the first of equals."""
    best = next(channels).copy()
    for index, scores in enumerate(channels, 1):
        larger = scores > best
        out[larger] = index
        np.copyto(best, scores, where=larger)


def to_probabilities(logits_cxyz: Logits, labels: Labels) -> NDArray[np.float32]:
    """Softmax for labels, sigmoid for regions, of logits rounded to float16.

    nnU-Net's logits are float16, too; with more digits the compressed file would be half as large again.

    Returns:
        float32 (classes or regions, x, y, z).
    """
    largest = float(np.finfo(np.float16).max)
    result = np.array(logits_cxyz, np.float32)
    for plane in range(result.shape[1]):  # in place, plane by plane
        scores = torch.from_numpy(result[:, plane])
        rounded = scores.clamp(-largest, largest).half().float()
        scores.copy_(rounded.sigmoid() if labels.has_regions else rounded.softmax(0))
    return result


def label_type(labels: Labels) -> type[np.uint8] | type[np.uint16]:
    """The smallest integer type for segmentations: nnU-Net's choice unless regions have larger values."""
    large = len(labels.foreground_labels) >= 255 or max(labels.regions_class_order or (0,)) > 255
    return np.uint16 if large else np.uint8


def uncropped(
    array: NDArray[Any], properties: Mapping[str, Any], plans: Plans, *, background: Sequence[float] = (0,)
) -> NDArray[Any]:
    """Put back what preprocessing cut away and restore the order of the axes.

    Args:
        array: (x, y, z) or (channels, x, y, z), as large as the cropped image.
        properties: What preprocessing noted about the case.
        plans: The plans.
        background: Value outside of the crop, one for each channel.

    Returns:
        Array in the geometry in which the reader gave the image.
    """
    lead = array.ndim - 3
    result = np.empty((*array.shape[:lead], *properties["shape_before_cropping"]), array.dtype)
    result[...] = np.reshape(background, (-1, 1, 1, 1) if lead else ())
    result[(slice(None),) * lead + as_slices(properties["bbox_used_for_cropping"])] = array
    return result.transpose(*range(lead), *(a + lead for a in plans.transpose_backward))


def segmented(
    logits_cxyz: Logits,
    properties: Mapping[str, Any],
    *,
    plans: Plans,
    configuration: Configuration,
    labels: Labels,
    probabilities: bool = False,
    threads: int = 1,
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """The segmentation of a case in the geometry in which its image was preprocessed, and its probabilities if wanted.

    Args:
        logits_cxyz: Network output on the configuration's grid.
        properties: What preprocessing noted about the case.
        plans: The plans.
        configuration: The configuration that was predicted with.
        labels: The labels of the dataset.
        probabilities: Give probabilities, too; takes memory for all classes on the grid of the image.
        threads: Number of threads.

    Returns:
        Segmentation (x, y, z), uint8 or uint16; probabilities float32 (classes or regions, x, y, z), or None.
    """
    grid = to_original_grid(properties, plans, configuration, threads=threads)
    if not probabilities:
        return uncropped(resampled_segmentation(logits_cxyz, grid, labels), properties, plans), None
    resampled = grid.resample(logits_cxyz)
    segmentation = labels.logits_to_segmentation(resampled).astype(label_type(labels))
    shares = to_probabilities(resampled, labels)
    del resampled
    outside = [0.0] * len(shares) if labels.has_regions else [1.0] + [0.0] * (len(shares) - 1)
    return uncropped(segmentation, properties, plans), uncropped(shares, properties, plans, background=outside)


def write_prediction(
    segmentation_xyz: NDArray[Any],
    probabilities_cxyz: NDArray[np.float32] | None,
    properties: Mapping[str, Any],
    *,
    reader_writer: ImageReaderWriter,
    output: Path,
    file_ending: str,
) -> None:
    """Write the segmentation of a case, and before it its probabilities if there are any.

    Each file is complete or absent.

    Args:
        segmentation_xyz: Labels in the geometry of the image.
        probabilities_cxyz: Written as ``<output>.npz`` (float32, key "probabilities"), the properties beside it as
            ``<output>.pkl``.
        properties: What reader and preprocessing noted about the case.
        reader_writer: Writes the segmentation.
        output: Path of the segmentation without its ending.
        file_ending: Ending of the segmentation, with the dot.

    Raises:
        StorageError: If a file cannot be written.
        ImageError: If the format cannot hold the labels.
    """
    if probabilities_cxyz is not None:
        write_probabilities(Path(f"{output}.npz"), probabilities_cxyz)
        write_bytes(Path(f"{output}.pkl"), pickle.dumps(dict(properties), protocol=4))
    reader_writer.write_segmentation(segmentation_xyz, Path(f"{output}{file_ending}"), properties)


def export_prediction(
    logits_cxyz: Logits,
    properties: Mapping[str, Any],
    *,
    plans: Plans,
    configuration: Configuration,
    labels: Labels,
    reader_writer: ImageReaderWriter,
    output: Path,
    file_ending: str,
    save_probabilities: bool = False,
    threads: int = 1,
) -> None:
    """From logits to files: :func:`segmented` and :func:`write_prediction` in one."""
    segmentation, probabilities = segmented(
        logits_cxyz,
        properties,
        plans=plans,
        configuration=configuration,
        labels=labels,
        probabilities=save_probabilities,
        threads=threads,
    )
    write_prediction(
        segmentation, probabilities, properties, reader_writer=reader_writer, output=output, file_ending=file_ending
    )


def export_for_next_stage(
    logits_cxyz: Logits,
    next_shape: Sequence[int],
    properties: Mapping[str, Any],
    *,
    plans: Plans,
    configuration: Configuration,
    labels: Labels,
    path: Path,
    threads: int = 1,
) -> None:
    """Write the segmentation of a case as input for the next stage of a cascade.

    Args:
        logits_cxyz: Network output on the configuration's grid.
        next_shape: Extents of the case as it is preprocessed for the next stage.
        properties: What reader and preprocessing noted about the case.
        plans: The plans.
        configuration: The configuration that was predicted with.
        labels: The labels of the dataset.
        path: Target, ending in ``.b2nd``; (x, y, z) of an unsigned integer type.
        threads: Number of threads.
    """
    import blosc2

    spacing = configuration.spacing_for([float(properties["spacing"][a]) for a in plans.transpose_forward])
    grid = Regridding(  # as nnU-Net does, although the spacing of the next stage is another one
        shape=tuple(int(n) for n in next_shape),
        current_spacing=spacing,
        new_spacing=spacing,
        spec=configuration.resampling_probabilities,
        threads=threads,
    )
    segmentation = resampled_segmentation(logits_cxyz, grid, labels)
    blocks, chunks = blocks_and_chunks((1, *segmentation.shape), configuration.patch_size, segmentation.itemsize)
    # One thread: several store the blocks of a chunk in the order in which they finish
    compressed = blosc2.asarray(
        segmentation, chunks=chunks[1:], blocks=blocks[1:], cparams={"nthreads": 1}, contiguous=True
    )
    write_bytes(path, compressed.to_cframe())
