"""What every image reader/writer can do, and what they share.

Arrays have the axes (channel, x, y, z) in nnU-Net's sense: "x" is the slowest axis, for NIfTI files the slices.
Property dictionaries are pickled for nnU-Net to read, so they hold nothing but builtin types and numpy arrays.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import ImageError, NnunetError

Properties = dict[str, Any]
FloatImage = NDArray[np.float32]

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What is known of an image file without its voxels.

    Attributes:
        shape: Array axes without channels, always three; as :meth:`ImageReaderWriter.read_images` gives them.
        spacing: In mm, for the axes of ``shape``.
        num_channels: Channels in this one file.
        voxel_bytes: Bytes of a voxel of one channel, as stored.
        geometry: Origin and direction, or affine, flattened; empty for formats without. Differences between the files
            of a case are worth a warning.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, float, float]
    num_channels: int
    voxel_bytes: int
    geometry: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def num_voxels(self) -> int:
        """Voxels of all channels."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.num_channels


class ImageReaderWriter(Protocol):
    """A file format under nnU-Net's name for its reader. Implementations have no state."""

    name: ClassVar[str]
    file_endings: ClassVar[tuple[str, ...]]

    def read_images(self, paths: Sequence[Path]) -> tuple[FloatImage, Properties]:
        """Read the files of a case, one for each channel.

        Returns:
            The image as float32 (C, x, y, z), and properties: ``spacing`` (three floats for x, y, z, in mm) and what
            the format needs to write a segmentation of the same geometry.

        Raises:
            ImageError: If a file is missing, damaged or unsuitable, or if shape or spacing differ between channels.
        """
        ...

    def read_segmentation(self, path: Path) -> tuple[FloatImage, Properties]:
        """Read a label file as float32 (1, x, y, z), with its properties.

        Raises:
            ImageError: If it is missing or damaged, or has several channels.
        """
        ...

    def write_segmentation(self, segmentation_xyz: NDArray[Any], path: Path, properties: Mapping[str, Any]) -> None:
        """Write a segmentation (x, y, z) as uint8, or uint16 if it holds values from 255 on.

        Raises:
            StorageError: If the file cannot be written.
            ImageError: If the format cannot hold these values.
        """
        ...

    def read_header(self, path: Path) -> ImageHeader:
        """Read what can be known without decoding the voxels, which takes milliseconds.

        Raises:
            ImageError: If the file is missing, unsuitable, or its header is damaged.
        """
        ...


def single_channel(image_cxyz: FloatImage, path: Path) -> FloatImage:
    """Refuse a segmentation with several channels.

    Raises:
        ImageError: If there is more than one.
    """
    if image_cxyz.shape[0] != 1:
        raise ImageError(
            f"The segmentation {path} has several channels.",
            found=f"{image_cxyz.shape[0]} channels (a colour or palette image?)",
            expected="one channel holding label values",
            remedy="save it as a greyscale image of whole numbers",
        )
    return image_cxyz


def read_channels(
    paths: Sequence[Path], read: Callable[[Path], tuple[FloatImage, Properties]]
) -> tuple[FloatImage, list[Properties]]:
    """Read the files of a case into one array, checking that they fit together.

    Args:
        paths: The files.
        read: Gives array (c, x, y, z) and properties of one file.

    Returns:
        The image (C, x, y, z), and the properties of every file.

    Raises:
        ImageError: Naming every file whose shape or spacing differs from the first one's, with the values.
    """
    first, first_properties = read(paths[0])
    all_properties = [first_properties]
    if len(paths) == 1:
        return first, all_properties
    result = np.empty((first.shape[0] * len(paths), *first.shape[1:]), np.float32)
    result[: first.shape[0]] = first
    shape, spacing = first.shape, first_properties["spacing"]
    del first  # it is in the result: never hold a channel twice while the next ones are read
    differences: list[str] = []
    for index, path in enumerate(paths[1:], 1):
        image, properties = read(path)
        if image.shape != shape:
            differences.append(f"{path} has the shape {image.shape}")
        else:
            result[index * shape[0] : (index + 1) * shape[0]] = image
        if not np.allclose(properties["spacing"], spacing):
            differences.append(f"{path} has the spacing {rounded(properties['spacing'])}")
        all_properties.append(properties)
    if differences:
        raise ImageError(
            f"The channels of a case do not fit together: {'; '.join(differences)}.",
            expected=f"shape {shape} (channels first) and spacing {rounded(spacing)}, as in {paths[0]}",
            remedy="resample the channels onto one grid, or replace the wrong file",
        )
    return result, all_properties


def warn_of_geometry(path: Path, first_path: Path, what: str, found: Any, expected: Any) -> None:
    """Log that the position or orientation of a channel differs from the first channel's."""
    if np.shape(found) != np.shape(expected) or not np.allclose(found, expected):
        logger.warning(
            "%s has another %s than %s: %s instead of %s. The channels are used as if they were aligned.",
            path, what, first_path, rounded(found), rounded(expected),
        )  # fmt: skip


def smallest_label_type(segmentation: NDArray[Any]) -> NDArray[Any]:
    """The segmentation as uint8, or as uint16 if its largest value is 255 or more."""
    return segmentation.astype(np.uint8 if segmentation.max(initial=0) < 255 else np.uint16, copy=False)


def rounded(values: Any) -> tuple[float, ...]:
    """Numbers for a message, with six significant digits."""
    return tuple(float(f"{v:.6g}") for v in np.asarray(values, dtype=float).ravel())


@contextlib.contextmanager
def image_errors(path: Path, advice: str = "replace it with an intact copy") -> Iterator[None]:
    """Within this block, whatever an image library raises becomes an :class:`ImageError` that names ``path``."""
    try:
        if not path.is_file():
            reason = "it is a folder" if path.is_dir() else "there is no such file"
            raise ImageError(f"The image {path} cannot be read.", found=reason, remedy="check its name and place")
        yield
    except (NnunetError, MemoryError):
        raise
    except Exception as error:  # image libraries raise anything from struct.error to zlib.error
        raise ImageError(f"The image {path} cannot be read.", found=gist(error), remedy=advice) from error


def damaged(path: Path, found: str) -> ImageError:
    """The error for a file that ends too early or fails its checksum."""
    return ImageError(
        f"The image {path} is damaged.", found=found, remedy="copy or download it again, or remove the case"
    )


def gist(error: BaseException) -> str:
    """The last lines of an error with what a user can use: SimpleITK's run over several, with source positions."""
    text = str(error)
    if "Unable to determine ImageIO reader" in text:
        return "not an image of this format, or a damaged one"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith("Exception thrown in") and ".cxx:" not in line]
    text = re.sub(r"(sitk::ERROR|ITK ERROR|\w+\(0x[0-9a-f]+\)):", "", " ".join(kept or lines)).strip()
    return " ".join(text.split())[:300] or type(error).__name__
