"""Images that SimpleITK reads: NIfTI, NRRD, MetaImage, GIPL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError, StorageError
from nnunet_pt.core.files import atomic_path
from nnunet_pt.dataset.images.base import (
    FloatImage,
    ImageHeader,
    Properties,
    gist,
    image_errors,
    read_channels,
    single_channel,
    smallest_label_type,
    warn_of_geometry,
)
from nnunet_pt.dataset.images.hidden_damage import check_gipl_complete, check_nifti_complete

THICKNESS_OF_2D = 999.0  # spacing of the axis a 2D image does not have: so large that it is never resampled
ADVICE = "replace it with an intact copy; if SimpleITK dislikes the geometry of a NIfTI file, try NibabelIO"


class SimpleITKIO:
    """Reads files as SimpleITK's numpy view has them: (slices, rows, columns).

    2D images become one slice, 4D files become channels. Source of the conventions: nnU-Net's files.
    """

    name: ClassVar[str] = "SimpleITKIO"
    file_endings: ClassVar[tuple[str, ...]] = (".nii.gz", ".nrrd", ".mha", ".gipl")

    def read_images(self, paths: Sequence[Path]) -> tuple[FloatImage, Properties]:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        image, properties = read_channels(paths, self._read)
        for path, other in zip(paths[1:], properties[1:], strict=True):
            for what in ("origin", "direction"):
                warn_of_geometry(path, paths[0], what, other["sitk_stuff"][what], properties[0]["sitk_stuff"][what])
        return image, properties[0]

    def read_segmentation(self, path: Path) -> tuple[FloatImage, Properties]:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        image, properties = self._read(path)
        return single_channel(image, path), properties

    def write_segmentation(self, segmentation_xyz: NDArray[Any], path: Path, properties: Mapping[str, Any]) -> None:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        geometry = properties["sitk_stuff"]
        # Of a 4D file, time is the last of ITK's axes; a segmentation has none.
        dimensions, stored = min(len(geometry["spacing"]), 3), len(geometry["spacing"])
        array = smallest_label_type(segmentation_xyz)
        image = sitk.GetImageFromArray(array[0] if dimensions == 2 else array)
        image.SetSpacing([float(v) for v in geometry["spacing"][:dimensions]])
        image.SetOrigin([float(v) for v in geometry["origin"][:dimensions]])
        direction = np.reshape(geometry["direction"], (stored, stored))[:dimensions, :dimensions]
        image.SetDirection([float(v) for v in direction.ravel()])
        write(self._before_writing(image, properties), path)

    def read_header(self, path: Path) -> ImageHeader:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        with image_errors(path, ADVICE):
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            size, spacing = reader.GetSize(), reader.GetSpacing()
            _refuse_vectors(path, reader.GetDimension(), reader.GetNumberOfComponents())
        return ImageHeader(
            shape=tuple(size[:3][::-1]) if len(size) > 2 else (1, *size[::-1]),
            spacing=reported_spacing(spacing),
            num_channels=size[3] if len(size) > 3 else 1,
            voxel_bytes=_voxel_bytes(reader.GetPixelID()),
            geometry={"origin": tuple(reader.GetOrigin()), "direction": tuple(reader.GetDirection())},
        )

    def _read(self, path: Path) -> tuple[FloatImage, Properties]:
        with image_errors(path, ADVICE):
            image = sitk.ReadImage(str(path))
            _refuse_vectors(path, image.GetDimension(), image.GetNumberOfComponentsPerPixel())
            _check_complete(path, image)
            image, extra = self._after_reading(image)
            array = sitk.GetArrayViewFromImage(image)
            while array.ndim < 4:
                array = array[None]
            properties: Properties = {
                "sitk_stuff": {
                    "spacing": tuple(image.GetSpacing()),
                    "origin": tuple(image.GetOrigin()),
                    "direction": tuple(image.GetDirection()),
                    **extra,
                },
                "spacing": list(reported_spacing(image.GetSpacing())),
            }
            return array.astype(np.float32), properties

    def _after_reading(self, image: Any) -> tuple[Any, dict[str, Any]]:
        return image, {}

    def _before_writing(self, image: Any, properties: Mapping[str, Any]) -> Any:  # noqa: ARG002 (a hook)
        return image


class SimpleITKIOWithReorient(SimpleITKIO):
    """Turns images to RAS on reading, and segmentations back on writing. Only used if asked for by name."""

    name: ClassVar[str] = "SimpleITKIOWithReorient"
    orientation: ClassVar[str] = "RAS"

    def read_header(self, path: Path) -> ImageHeader:
        """See :class:`~nnunet_pt.dataset.images.base.ImageReaderWriter`."""
        header = SimpleITKIO.read_header(self, path)
        direction = header.geometry["direction"]
        if len(direction) != 9:
            raise _not_3d(path)
        # The reorientation permutes axes: a dummy image of one voxel each way tells how.
        dummy = sitk.Image([1, 1, 1], sitk.sitkUInt8)
        dummy.SetDirection(direction)
        dummy.SetSpacing([1.0, 2.0, 3.0])
        order = [round(s) - 1 for s in sitk.DICOMOrient(dummy, self.orientation).GetSpacing()]
        shape, spacing = header.shape[::-1], header.spacing[::-1]
        return ImageHeader(
            shape=tuple(shape[axis] for axis in order[::-1]),
            spacing=(spacing[order[2]], spacing[order[1]], spacing[order[0]]),
            num_channels=1,
            voxel_bytes=header.voxel_bytes,
            geometry=header.geometry,
        )

    def _read(self, path: Path) -> tuple[FloatImage, Properties]:
        image, properties = SimpleITKIO._read(self, path)
        if len(properties["sitk_stuff"]["spacing"]) != 3:
            raise _not_3d(path)
        return image, properties

    def _after_reading(self, image: Any) -> tuple[Any, dict[str, Any]]:
        if image.GetDimension() != 3:
            return image, {}
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
        return sitk.DICOMOrient(image, self.orientation), {"original_orientation": code}

    def _before_writing(self, image: Any, properties: Mapping[str, Any]) -> Any:
        return sitk.DICOMOrient(image, properties["sitk_stuff"]["original_orientation"])


def write(image: Any, path: Path) -> None:
    """Write an ITK image, compressed, complete or not at all.

    Raises:
        StorageError: If it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), True)
            _check_complete(temporary, image)  # on a full disk ITK may go on as if nothing had happened
        except (RuntimeError, ImageError) as error:
            raise StorageError(
                f"{path} cannot be written.",
                found=error.found if isinstance(error, ImageError) else gist(error),
                remedy="free some space, check the permissions of the folder and the file ending",
            ) from error


def _check_complete(path: Path, image: Any) -> None:
    if path.name.lower().endswith((".nii.gz", ".nii")):
        check_nifti_complete(path)
    elif path.name.lower().endswith(".gipl"):
        check_gipl_complete(path, int(np.prod(image.GetSize())) * _voxel_bytes(image.GetPixelID()))


def read_volumes(path: Path) -> list[Any]:
    """The 3D volumes of a 4D file as ITK images; none if the file is not 4D.

    Raises:
        ImageError: If the file cannot be read.
    """
    with image_errors(path, ADVICE):
        check_nifti_complete(path)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = list(reader.GetSize())
        if len(size) < 4:
            return []
        whole = reader.Execute()
        return [sitk.Extract(whole, [*size[:3], 0], [0, 0, 0, index]) for index in range(size[3])]


def reported_spacing(itk_spacing: Sequence[float]) -> tuple[float, float, float]:
    """ITK's spacing (columns, rows, slices) in the order of array axes; 2D images get a very thick slice."""
    values = [abs(float(v)) for v in itk_spacing[:3]]
    if len(values) == 2:
        values.append(max(values) * THICKNESS_OF_2D)
    return values[2], values[1], values[0]


def _voxel_bytes(pixel_id: int) -> int:
    return int(sitk.GetArrayViewFromImage(sitk.Image([1, 1], pixel_id)).itemsize)


def _refuse_vectors(path: Path, dimension: int, components: int) -> None:
    if components > 1:
        raise ImageError(
            f"The image {path} has {components} values in each voxel.",
            expected="one value (several channels as several files, or as the 4th axis)",
            remedy="write one file for each channel",
        )
    if not 2 <= dimension <= 4:
        raise ImageError(f"The image {path} has {dimension} dimensions.", expected="2, 3 or 4")


def _not_3d(path: Path) -> ImageError:
    return ImageError(
        f"The image {path} is not 3D.", remedy="set overwrite_image_reader_writer to SimpleITKIO in dataset.json"
    )
