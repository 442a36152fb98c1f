"""Choosing and turning slices of a case; what is needed of preprocessed images is brought back to the original grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import StorageError
from nnunet_pt.preprocessing.store import case_files, damaged, load_case, load_properties, open_array

THICK_SLICES: Final = 1.5  # slices are cut across an axis whose spacing is larger than the first one's by this factor
UPRIGHT: Final = ("SI", "AP", "RL")  # from top to bottom or from left to right: from the first to the second letter
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSlice:
    """One slice of a case; arrays are (rows, columns).

    Attributes:
        image: Grey values.
        annotation: Labels.
        prediction: Labels.
        spacing_mm: Of rows and columns.
        index: Number of the slice.
        number: How many slices there are.
        channel: Channel of the image.
        window: Black and white; None for nearly the whole range of what is shown.
    """

    image: NDArray[np.float32]
    annotation: NDArray[np.int32]
    prediction: NDArray[np.int32]
    spacing_mm: tuple[float, float]
    index: int
    number: int
    channel: int
    window: tuple[float, float] | None = None


def take_slice(array: NDArray[_T], index: int, axis: int) -> NDArray[_T]:
    """The slice at a place along an axis, without that axis."""
    return np.asarray(array[(slice(None),) * axis + (index,)])


def slice_axis(spacing: Sequence[float], shape: Sequence[int], orientation: str | None) -> int:
    """The axis across which slices are cut: from foot to head, unless slices are thick along another."""
    usual = 0 if orientation is None else next(a for a, letter in enumerate(orientation) if letter in UPRIGHT[0])
    axis = int(np.argmax(spacing))
    is_thick = spacing[axis] > THICK_SLICES * spacing[usual] and min(shape[axis], shape[usual]) > 1
    return axis if is_thick else usual


def is_turned(letters: str | None) -> bool:
    """Whether rows and columns of a slice have to be exchanged so that it is seen upright."""
    places = [i for letter in letters or "" for i, pair in enumerate(UPRIGHT) if letter in pair]
    return places != sorted(places)


def upright(slice_2d: NDArray[_T], letters: str | None) -> NDArray[_T]:
    """A slice as radiologists look at it; without an orientation as it is stored.

    Args:
        slice_2d: (rows, columns).
        letters: The directions in which rows and columns go on.
    """
    if letters is None:
        return slice_2d
    seconds = {pair[1] for pair in UPRIGHT}
    flipped = slice_2d[tuple(slice(None, None, 1 if letter in seconds else -1) for letter in letters)]
    return flipped.T if is_turned(letters) else flipped


def telling_slice(annotation: NDArray[np.int32], prediction: NDArray[np.int32], axis: int) -> int:
    """The slice with most wrong voxels; if there are none, with most of the structures."""
    others = tuple(a for a in range(annotation.ndim) if a != axis)
    wrong = np.asarray((annotation != prediction).sum(others))
    return int((wrong if wrong.any() else np.asarray((annotation > 0).sum(others))).argmax())


def contrast(image: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """How much the structures differ from what is around them, in standard deviations."""
    spread = float(image.std())
    if not inside.any() or inside.all() or spread == 0:
        return 0.0
    return abs(float(image[inside].mean()) - float(image[~inside].mean())) / spread


def preprocessed_slice(
    folder: Path,
    case: str,
    axis: int,
    index: int,
    transpose_forward: Sequence[int],
    masked: Sequence[bool] = (),
) -> NDArray[np.float32]:
    """A slice (channels, rows, columns) of the original grid, from a case that was transposed, cropped and resampled.

    Only this slice is read. What was cropped away is shown as the smallest value.

    Args:
        folder: Preprocessed cases of the configuration.
        case: Name of the case.
        axis: Axis of the original image across which it is cut.
        index: Place of the slice along it.
        transpose_forward: Of the plans.
        masked: For each channel whether it was normalised within a mask, so that zeros are what is outside of it; they
            are shown as the smallest value, too.

    Raises:
        StorageError: If the case is missing or damaged.
    """
    from skimage.transform import resize

    properties = load_properties(folder / case_files(case)[2])
    try:
        shape = [int(n) for n in properties["shape_before_cropping"]]
        box = [(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"The properties of {case} in {folder} do not say how it was cropped.") from error
    along = list(transpose_forward).index(axis)
    rest = [a for a in range(len(shape)) if a != along]
    low, high = box[along]
    plane = _stored_slice(folder, case, along, (index - low + 0.5) / (high - low))
    canvas = np.zeros((len(plane), *(shape[a] for a in rest)), np.float32)
    if low <= index < high:
        inside = tuple(slice(*box[a]) for a in rest)
        size = [box[a][1] - box[a][0] for a in rest]
        for number, (channel, target) in enumerate(zip(plane, canvas, strict=True)):
            if number < len(masked) and masked[number]:
                channel[channel == 0] = channel.min()
            target[:] = channel.min()
            target[inside] = resize(channel, size, order=1, preserve_range=True, anti_aliasing=False)
    original_order = [transpose_forward[a] for a in rest]
    return canvas if original_order == sorted(original_order) else canvas.transpose(0, 2, 1)


def _stored_slice(folder: Path, case: str, along: int, place: float) -> NDArray[np.float32]:
    """The slice (channels, ...) of a preprocessed case at a place from 0 to 1; only this slice is read."""
    path = folder / case_files(case)[0]
    array = open_array(path) if path.is_file() else load_case(folder, case)[0]
    number = array.shape[along + 1]
    nearest = min(max(int(place * number), 0), number - 1)
    where = [slice(None)] * array.ndim
    where[along + 1] = slice(nearest, nearest + 1)
    try:
        return take_slice(np.array(array[tuple(where)], np.float32), 0, along + 1)
    except Exception as error:  # damaged blocks make blosc2 raise anything
        raise damaged(path, error) from error
