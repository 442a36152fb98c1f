"""How images lie in their arrays, and turning them to how the training images lay.

An orientation is written as three letters, one for each axis of the reader's array (slowest first): the direction of
the patient, of Left and Right, Anterior and Posterior, Superior and Inferior, in which the index increases. There are
48 of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.core.files import read_json, write_json

ORIENTATION_FILE: Final = "orientation.json"
_PAIRS: Final = ("LR", "PA", "SI")  # positive and negative direction of each axis in DICOM's coordinates (LPS)
_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0])  # from NIfTI's coordinates (RAS)
_DIGITS: Final = 6  # directions are stored as float32 by some formats


def orientation_of(properties: Mapping[str, Any]) -> str | None:
    """How an image lies in the array that its reader gave.

    Axes that are oblique count as the closest direction, so that each pair of directions occurs once.

    Args:
        properties: The reader's properties of the image.

    Returns:
        Three letters, for example "SPL" for most CT images; None for images that have no geometry in space (PNG, TIFF,
        2D images) or an unusable one.
    """
    try:
        axes_lps = _array_axes(properties)
    except (AttributeError, KeyError, TypeError, ValueError):  # of files that something else wrote
        return None
    if axes_lps is None or not np.isfinite(axes_lps).all():
        return None
    lengths = np.linalg.norm(axes_lps, axis=0)
    if not lengths.all() or abs(np.linalg.det(axes_lps / lengths)) < 1e-3:
        return None
    axes_lps = axes_lps / lengths
    patient_axes = max(permutations(range(3)), key=lambda order: _closeness(axes_lps, order))
    return "".join(_PAIRS[p][int(axes_lps[p, a] < 0)] for a, p in enumerate(patient_axes))


def _array_axes(properties: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Direction of each array axis in DICOM's coordinates (LPS), as the columns of a 3 x 3 matrix."""
    if "sitk_stuff" in properties:
        direction = np.asarray(properties["sitk_stuff"].get("direction", ()), float).ravel()
        if direction.size not in (9, 16):
            return None
        size = round(direction.size**0.5)  # 4 for files with several volumes
        matrix = direction.reshape(size, size)[:3, :3]
    elif "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = stuff.get("reoriented_affine", stuff.get("original_affine"))
        if np.shape(affine) != (4, 4):
            return None
        matrix = _TO_LPS @ np.asarray(affine, float)[:3, :3]
    else:
        return None
    return matrix[:, ::-1]  # readers turn the file's axes round


def _closeness(axes_lps: NDArray[np.float64], patient_axes: Sequence[int]) -> tuple[float, ...]:
    """How well array axes fit the patient's axes that they are taken for.

    Between equally good choices the planes in which the axes lie decide, which are the same however an image's axes
    are permuted and flipped.
    """
    of_patient = np.argsort(patient_axes)
    total = sum(abs(axes_lps[p, a]) for a, p in enumerate(patient_axes))
    planes = [np.outer(axes_lps[:, a], axes_lps[:, a]).ravel() for a in of_patient]
    return (round(float(total), _DIGITS), *(round(float(v), _DIGITS) for v in np.concatenate(planes)))


@dataclass(frozen=True, slots=True)
class Reorientation:
    """Turns arrays from one orientation to another and back.

    Attributes:
        order: For each axis of the turned array the axis of the given one.
        flipped: For each axis of the turned array whether it runs the other way.
    """

    order: tuple[int, ...]
    flipped: tuple[bool, ...]

    @classmethod
    def between(cls, current: str, wanted: str) -> Reorientation:
        """From the orientation of given arrays to the wanted one, see :func:`orientation_of`.

        Raises:
            PredictionError: If one of them is not an orientation.
        """
        for code in (current, wanted):
            if not is_orientation(code):
                raise PredictionError(
                    f"{code!r} is not an orientation.", expected="a letter of each pair L/R, A/P and S/I, like SPL"
                )
        pairs = [_pair(letter) for letter in current]
        order = tuple(pairs.index(_pair(letter)) for letter in wanted)
        flipped = tuple(current[axis] != letter for axis, letter in zip(order, wanted, strict=True))
        return cls(order, flipped)

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed."""
        return self.order == (0, 1, 2) and not any(self.flipped)

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn an array (x, y, z) or (c, x, y, z); the result is a view, whose strides may be negative."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(axis + lead for axis in self.order))
        result: NDArray[Any] = turned[self._steps()]
        return result

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn an array (x, y, z) or (c, x, y, z) back; the result is a view, whose strides may be negative."""
        lead = array.ndim - 3
        straight: NDArray[Any] = array[self._steps()]
        return straight.transpose(*range(lead), *(self.order.index(axis) + lead for axis in range(3)))

    def properties(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """The properties of an image with the spacing of the turned array.

        All others stay as they are: a segmentation is turned back before it is written with them.
        """
        return {**properties, "spacing": [properties["spacing"][axis] for axis in self.order]}

    def _steps(self) -> tuple[Any, ...]:
        return (..., *(slice(None, None, -1 if flip else None) for flip in self.flipped))


def is_orientation(code: object) -> bool:
    """Whether a value is one of the 48 orientations."""
    return isinstance(code, str) and len(code) == 3 and sorted(map(_pair, code)) == [0, 1, 2]


def _pair(letter: str) -> int:
    return next((i for i, pair in enumerate(_PAIRS) if letter in pair), -1)


def record_orientation(model_folder: Path, orientation: str, num_cases: int) -> None:
    """Write down how the training images of a model lie in their arrays.

    Args:
        model_folder: The model's folder.
        orientation: The orientation that all of them have.
        num_cases: How many images were looked at.

    Raises:
        StorageError: If the file cannot be written.
    """
    axes = ", ".join(f"axis {i} towards {_WORDS[letter]} ({letter})" for i, letter in enumerate(orientation))
    write_json(
        model_folder / ORIENTATION_FILE,
        {
            "orientation": orientation,
            "meaning": f"In the arrays of the training images the index increases along {axes}; axis 0 is the slowest.",
            "num_cases": num_cases,
            "use": "Images in another orientation are turned to this one for prediction, and their segmentations back. "
            "Prediction with --keep_orientation, or without this file, leaves images as they are. "
            "nnU-Net does not use this file.",
        },
    )


_WORDS: Final = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "S": "superior", "I": "inferior"}


def read_orientation(model_folder: Path) -> str | None:
    """How the training images of a model lie in their arrays; None if that was not recorded.

    Raises:
        PredictionError: If the record cannot be understood.
        StorageError: If the record cannot be read or is not JSON.
    """
    path = model_folder / ORIENTATION_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    orientation = content.get("orientation") if isinstance(content, Mapping) else None
    if not is_orientation(orientation):
        raise PredictionError(
            f"{path} does not say how the training images lie in their arrays.",
            found=repr(orientation),
            expected='"orientation" with a letter of each pair L/R, A/P and S/I, like "SPL"',
            remedy="restore the file, or delete it to predict images as they lie",
        )
    return str(orientation)
