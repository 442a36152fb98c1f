"""2D photographs and micrographs: PNG, BMP, TIFF; grey or colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError
from nnunet_pt.core.files import atomic_path
from nnunet_pt.dataset.images.base import (
    FloatImage,
    ImageHeader,
    Properties,
    image_errors,
    read_channels,
    single_channel,
    smallest_label_type,
)

SPACING = (999, 1, 1)  # integers, as nnU-Net writes them
TIFF_ENDINGS = (".tif", ".tiff")
COLOUR_CHANNELS = (3, 4)
# Pillow's mode -> (channels, bytes of one) as they arrive here; other modes are turned into RGB.
PILLOW_MODES = {"1": (1, 1), "L": (1, 1), "RGB": (3, 1), "RGBA": (4, 1), "I;16": (1, 2), "I": (1, 4), "F": (1, 4)}


class NaturalImage2DIO:
    """Reads grey images as (1, 1, rows, columns), colour images as (3 or 4, 1, rows, columns).

    Grey values keep their 16 bits; of a colour PNG with 16 bits the upper 8 are read, as in nnU-Net.
    """

    name: ClassVar[str] = "NaturalImage2DIO"
    file_endings: ClassVar[tuple[str, ...]] = (".png", ".bmp", ".tif")

    def read_images(self, paths: Sequence[Path]) -> tuple[FloatImage, Properties]:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        image, properties = read_channels(paths, self._read)
        return image, properties[0]

    def read_segmentation(self, path: Path) -> tuple[FloatImage, Properties]:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        image, properties = self._read(path)
        return single_channel(image, path), properties

    def write_segmentation(
        self,
        segmentation_xyz: NDArray[Any],
        path: Path,
        properties: Mapping[str, Any],  # noqa: ARG002 (nothing to restore)
    ) -> None:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        array = smallest_label_type(segmentation_xyz[0])
        if array.dtype == np.uint16 and path.suffix.lower() == ".bmp":
            raise ImageError(
                f"{path} cannot be written.", found="label values from 255 on", remedy="use .png instead of .bmp"
            )
        with atomic_path(path) as temporary:
            _save(temporary, array)

    def read_header(self, path: Path) -> ImageHeader:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        with image_errors(path):
            shape, voxel_bytes = _tiff_shape(path) if path.suffix.lower() in TIFF_ENDINGS else _pillow_shape(path)
            channels, rows, columns = _channels_first(shape, path)
            return ImageHeader(
                shape=(1, rows, columns), spacing=SPACING, num_channels=channels, voxel_bytes=voxel_bytes
            )

    def _read(self, path: Path) -> tuple[FloatImage, Properties]:
        from skimage.io import imread

        with image_errors(path):
            array = imread(str(path))
            _channels_first(array.shape, path)
            array = array.transpose(2, 0, 1)[:, None] if array.ndim == 3 else array[None, None]
            return np.ascontiguousarray(array, np.float32), {"spacing": SPACING}


def _save(path: Path, array: NDArray[Any]) -> None:
    if path.suffix.lower() in TIFF_ENDINGS:
        import tifffile

        tifffile.imwrite(path, array, photometric="minisblack")  # scikit-image takes 3 columns for colours
    else:
        from skimage.io import imsave

        imsave(str(path), array, check_contrast=False)


def _channels_first(shape: Sequence[int], path: Path) -> tuple[int, int, int]:
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    if len(shape) == 3 and shape[2] in COLOUR_CHANNELS:
        return shape[2], shape[0], shape[1]
    raise ImageError(
        f"The image {path} is neither a grey nor a colour image.",
        found=f"shape {tuple(shape)}",
        expected="(rows, columns), (rows, columns, 3) or (rows, columns, 4)",
        remedy="write one file for each channel; for volumes in TIFF files use Tiff3DIO",
    )


def _pillow_shape(path: Path) -> tuple[tuple[int, ...], int]:
    from PIL import Image

    with Image.open(path) as image:
        mode = image.mode
        if mode in ("LA", "PA"):
            return (image.height, image.width, 2), 1
        if mode == "P":
            channels = 4 if image.palette is not None and image.palette.mode == "RGBA" else 3
            return (image.height, image.width, channels), 1
        channels, voxel_bytes = PILLOW_MODES.get(mode, (3, 1))
        size = (image.height, image.width)
        return (size if channels == 1 else (*size, channels)), voxel_bytes


def _tiff_shape(path: Path) -> tuple[tuple[int, ...], int]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        shape = tuple(int(n) for n in series.shape)
        if len(shape) == 3 and shape[2] not in COLOUR_CHANNELS and shape[0] in COLOUR_CHANNELS:
            shape = (shape[1], shape[2], shape[0])  # colours in planes; scikit-image turns them round, too
        return shape, series.dtype.itemsize
