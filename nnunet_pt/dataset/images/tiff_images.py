"""Volumes in TIFF files, with their spacing in a JSON file beside them."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError
from nnunet_pt.core.files import atomic_path, read_json, write_json
from nnunet_pt.dataset.images.base import (
    FloatImage,
    ImageHeader,
    Properties,
    damaged,
    image_errors,
    logger,
    read_channels,
    single_channel,
    smallest_label_type,
)

DEFAULT_SPACING = (1, 1, 1)
CHANNEL_NUMBER = re.compile("_[0-9]{4}$")


class Tiff3DIO:
    """Reads volumes as stored. The spacing is ``spacing`` in ``<case>.json``, or else 1 mm with a warning."""

    name: ClassVar[str] = "Tiff3DIO"
    file_endings: ClassVar[tuple[str, ...]] = (".tif", ".tiff")

    def read_images(self, paths: Sequence[Path]) -> tuple[FloatImage, Properties]:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        spacing = _spacing(_sidecar_of_image(paths[0]), paths[0])
        image, properties = read_channels(paths, lambda path: self._read(path, spacing))
        return image, properties[0]

    def read_segmentation(self, path: Path) -> tuple[FloatImage, Properties]:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        image, properties = self._read(path, _spacing(path.with_suffix(".json"), path))
        return single_channel(image, path), properties

    def write_segmentation(self, segmentation_xyz: NDArray[Any], path: Path, properties: Mapping[str, Any]) -> None:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`. Writes the JSON file, too."""
        import tifffile

        write_json(path.with_suffix(".json"), {"spacing": properties["spacing"]})
        with atomic_path(path) as temporary:
            tifffile.imwrite(
                temporary, smallest_label_type(segmentation_xyz), compression="zlib", photometric="minisblack"
            )

    def read_header(self, path: Path) -> ImageHeader:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        import tifffile

        with image_errors(path), tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape = tuple(int(n) for n in series.shape)
            _require_3d(shape, path)
            voxel_bytes = int(series.dtype.itemsize)
        # Whether this is an image or a label file cannot be seen, so both names of the JSON file are tried.
        candidates = (path.with_suffix(".json"), _sidecar_of_image(path))
        sidecar = next((c for c in candidates if c.is_file()), candidates[-1])
        x, y, z = _spacing(sidecar, path, warn=_silent)
        return ImageHeader(shape=shape, spacing=(x, y, z), num_channels=1, voxel_bytes=voxel_bytes)

    def _read(self, path: Path, spacing: Sequence[float]) -> tuple[FloatImage, Properties]:
        import tifffile

        with image_errors(path), _missing_pages_are_errors(path):
            array = tifffile.imread(path)
            _require_3d(array.shape, path)
            return np.ascontiguousarray(array, np.float32)[None], {"spacing": spacing}


@contextlib.contextmanager
def _missing_pages_are_errors(path: Path) -> Iterator[None]:
    """tifffile reads the pages that are left of a truncated file and only logs that more were announced."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    tifffile_logger = logging.getLogger("tifffile")
    tifffile_logger.addHandler(handler)
    try:
        yield
    finally:
        tifffile_logger.removeHandler(handler)
    if any("invalid page offset" in text for text in records):
        raise damaged(path, "its last pages are missing")


def _sidecar_of_image(path: Path) -> Path:
    return path.with_name(CHANNEL_NUMBER.sub("", path.stem) + ".json")


def _silent(*_: object) -> None:
    pass


def _spacing(sidecar: Path, image: Path, warn: Callable[..., None] = logger.warning) -> Sequence[float]:
    if not sidecar.is_file():
        warn("%s has no %s beside it; its spacing is taken to be 1 mm in every direction.", image, sidecar.name)
        return DEFAULT_SPACING
    content = read_json(sidecar)
    spacing = content.get("spacing") if isinstance(content, dict) else None
    if (
        not isinstance(spacing, list)
        or len(spacing) != 3
        or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in spacing)
    ):
        raise ImageError(
            f"{sidecar} does not tell the spacing of {image.name}.",
            found=f'"spacing" is {spacing!r}',
            expected='{"spacing": [slices, rows, columns]} with three positive numbers in mm',
        )
    return spacing


def _require_3d(shape: Sequence[int], path: Path) -> None:
    if len(shape) != 3:
        raise ImageError(
            f"The image {path} is not 3D.",
            found=f"shape {tuple(shape)}",
            expected="(slices, rows, columns)",
            remedy="for 2D images set overwrite_image_reader_writer to NaturalImage2DIO in dataset.json",
        )
