"""NIfTI files that nibabel reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError
from nnunet_pt.core.files import atomic_path
from nnunet_pt.dataset.images.base import (
    FloatImage,
    ImageHeader,
    Properties,
    image_errors,
    logger,
    read_channels,
    rounded,
    single_channel,
    smallest_label_type,
    warn_of_geometry,
)
from nnunet_pt.dataset.images.hidden_damage import check_nifti_complete

EXACT_IN_FLOAT64 = 4  # bytes: wider integers are rounded on their way through float64, as nibabel does


class NibabelIO:
    """Reads 3D NIfTI files with their axes turned round: (slices, rows, columns) as :class:`SimpleITKIO` has them."""

    name: ClassVar[str] = "NibabelIO"
    file_endings: ClassVar[tuple[str, ...]] = (".nii", ".nii.gz")
    affine_key: ClassVar[str] = "original_affine"

    def read_images(self, paths: Sequence[Path]) -> tuple[FloatImage, Properties]:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        image, properties = read_channels(paths, self._read)
        affines = [p["nibabel_stuff"][self.affine_key] for p in properties]
        for path, affine in zip(paths[1:], affines[1:], strict=True):
            warn_of_geometry(path, paths[0], "affine", affine, affines[0])
        return image, properties[0]

    def read_segmentation(self, path: Path) -> tuple[FloatImage, Properties]:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        image, properties = self._read(path)
        return single_channel(image, path), properties

    def write_segmentation(self, segmentation_xyz: NDArray[Any], path: Path, properties: Mapping[str, Any]) -> None:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        array = smallest_label_type(segmentation_xyz).transpose(2, 1, 0)
        _write(nib.Nifti1Image(array, properties["nibabel_stuff"]["original_affine"]), path)

    def read_header(self, path: Path) -> ImageHeader:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        with image_errors(path):
            image = _load(path)
            shape, spacing, _ = self._geometry(image)
            return ImageHeader(
                shape=tuple(int(n) for n in shape[::-1]),
                spacing=_reversed_floats(spacing),
                num_channels=1,
                voxel_bytes=int(image.get_data_dtype().itemsize),
                geometry={"affine": tuple(float(v) for v in image.affine.ravel())},
            )

    def _read(self, path: Path) -> tuple[FloatImage, Properties]:
        with image_errors(path):
            check_nifti_complete(path)
            image = _load(path)
            _, spacing, affines = self._geometry(image)
            array = self._oriented(_scaled(image), image.affine).transpose(2, 1, 0)
            properties: Properties = {"nibabel_stuff": affines, "spacing": list(_reversed_floats(spacing))}
            return np.ascontiguousarray(array, np.float32)[None], properties

    def _geometry(self, image: Any) -> tuple[Sequence[int], Sequence[float], dict[str, NDArray[np.float64]]]:
        """Shape, spacing (nibabel's axes) and affines of the image as it will be read."""
        return image.shape, image.header.get_zooms(), {"original_affine": np.array(image.affine)}

    def _oriented(self, array: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:  # noqa: ARG002 (a hook)
        return array


class NibabelIOWithReorient(NibabelIO):
    """Reads NIfTI files turned to the closest RAS orientation, and turns segmentations back on writing."""

    name: ClassVar[str] = "NibabelIOWithReorient"
    affine_key: ClassVar[str] = "reoriented_affine"

    def write_segmentation(self, segmentation_xyz: NDArray[Any], path: Path, properties: Mapping[str, Any]) -> None:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        original = properties["nibabel_stuff"]["original_affine"]
        array = smallest_label_type(segmentation_xyz).transpose(2, 1, 0)
        canonical = nib.Nifti1Image(array, properties["nibabel_stuff"]["reoriented_affine"])
        back = ornt_transform(axcodes2ornt("RAS"), io_orientation(original))
        image = canonical.as_reoriented(back)
        if not np.allclose(original, image.affine):
            logger.warning(
                "%s: the original affine %s could not be restored exactly, it is %s.",
                path, rounded(original), rounded(image.affine),
            )  # fmt: skip
        _write(image, path)

    def _geometry(self, image: Any) -> tuple[Sequence[int], Sequence[float], dict[str, NDArray[np.float64]]]:
        shape, spacing, affines = NibabelIO._geometry(self, image)
        original = affines["original_affine"]
        orientation = io_orientation(original)
        reoriented = original
        if not np.array_equal(orientation, [[0, 1], [1, 1], [2, 1]]):
            reoriented = original @ inv_ornt_aff(orientation, shape)
            shape = [shape[axis] for axis in np.argsort(orientation[:, 0])]
            header = image.header.copy()  # nibabel takes the spacing of a turned image from its affine
            header.set_qform(reoriented, code="unknown")
            spacing = header.get_zooms()
        return shape, spacing, {**affines, "reoriented_affine": reoriented}

    def _oriented(self, array: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
        result: NDArray[Any] = apply_orientation(array, io_orientation(affine))
        return result


def _load(path: Path) -> Any:
    image = nib.load(path)
    if not isinstance(image, (nib.Nifti1Image, nib.Nifti2Image)):
        raise ImageError(f"{path} is not a NIfTI file.", found=type(image).__name__, expected=".nii or .nii.gz")
    if len(image.shape) != 3:
        raise ImageError(
            f"The image {path} is not 3D.",
            found=f"shape {image.shape}",
            expected="three axes",
            remedy="write one file for each channel, or use SimpleITKIO",
        )
    return image


def _scaled(image: Any) -> NDArray[Any]:
    """The voxels; if they are scaled, rounded to float32 as by way of float64, but slice by slice."""
    stored = image.dataobj.get_unscaled()
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    if (slope, intercept) == (1, 0) and (stored.dtype.kind == "f" or stored.dtype.itemsize <= EXACT_IN_FLOAT64):
        return np.asarray(stored)
    result = np.empty(stored.shape, np.float32, order="F")
    for z in range(stored.shape[2]):
        result[..., z] = stored[..., z].astype(np.float64) * slope + intercept
    return result


def _reversed_floats(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values[:3])
    return z, y, x


def _write(image: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
