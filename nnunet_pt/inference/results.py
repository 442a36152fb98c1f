"""What goes into prediction and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.value_types import check_fields
from nnunet_pt.inference.inputs import InputCase
from nnunet_pt.inference.orientation import Reorientation
from nnunet_pt.networks.precision import PrecisionName
from nnunet_pt.plans.plans import Plans

Image = NDArray[np.float32]
Properties = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOptions:
    """How to predict.

    Attributes:
        step_size: Largest distance between neighbouring tiles as a share of the tile's extent.
        gaussian: Weight the middle of a tile more than its border.
        mirroring: Average the predictions of mirrored images, along the axes that the model was trained for.
        device: "cuda", "cuda:1", "cpu" or "mps"; None for the first that there is.
        precision: Numerical precision of the network's operations; "auto" for the fastest.
        results_on_device: Sum up the outputs on a GPU instead of in the memory of the computer.
        tiles_per_batch: Tiles that are predicted at once; by default as many as pays.
        keep_orientation: Predict images in their own orientation even if the model was trained in another one.
    """

    step_size: float = 0.5
    gaussian: bool = True
    mirroring: bool = True
    device: str | None = None
    precision: PrecisionName = "auto"
    results_on_device: bool = True
    tiles_per_batch: int | None = None
    keep_orientation: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(slots=True, kw_only=True)
class Prediction:
    """What was predicted, in the geometry of the input.

    Attributes:
        segmentation: (x, y, z), uint8 or uint16.
        probabilities: float32 (classes or regions, x, y, z) if they were asked for.
        properties: What reader and preprocessing noted about the image.
    """

    segmentation: NDArray[Any]
    probabilities: NDArray[np.float32] | None
    properties: Properties


@dataclass(slots=True, kw_only=True)
class CaseResult:
    """What became of a case.

    Attributes:
        case: The case.
        error: Why it failed; None if it did not.
        seconds: How long the network took.
        prediction: What was predicted, unless it was written to a file.
    """

    case: InputCase
    error: Exception | None
    seconds: float
    prediction: Prediction | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A preprocessed image, and what is needed for the way back.

    Attributes:
        image: What the network takes, (channels, x, y, z).
        properties: What preprocessing noted about it.
        original: What the reader noted about the image.
        turn: How the image was turned for the model; None if not at all.
    """

    image: Image
    properties: Properties
    original: Properties = field(default_factory=dict)
    turn: Reorientation | None = None

    def own_properties(self, plans: Plans) -> Properties:
        """What reader and preprocessing noted, for the image as it was before it was turned.

        The notes about cropping are for its axes in plans order.
        """
        if self.turn is None:
            return self.properties
        axes = [self.turn.order.index(axis) for axis in plans.transpose_forward]
        source = [plans.transpose_backward[axis] for axis in axes]
        shape, box = self.properties["shape_before_cropping"], self.properties["bbox_used_for_cropping"]
        cropped = self.properties["shape_after_cropping_and_before_resampling"]
        flipped = [[n - high, n - low] for n, (low, high) in zip(shape, box, strict=True)]
        bounds = [(flipped if self.turn.flipped[a] else box)[i] for a, i in zip(axes, source, strict=True)]
        return {
            **self.properties,
            **self.original,
            "shape_before_cropping": tuple(shape[i] for i in source),
            "bbox_used_for_cropping": bounds,
            "shape_after_cropping_and_before_resampling": tuple(cropped[i] for i in source),
        }
