"""The previous stage's segmentation as input of the network, and what keeps the network from trusting it blindly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnunet_pt.training.augmentation.base import (
    Always,
    Fixed,
    SameShape,
    Sample,
    Shape,
    Sometimes,
    Transform,
    draw_channels,
)
from nnunet_pt.training.augmentation.morphology import OPERATIONS, Operation, component_to_drop, morph


@dataclass(frozen=True, slots=True)
class PreviousStageToImage(Fixed):
    """Move segmentation channel 1 to the end of the image, one channel of zeros and ones for each label.

    Attributes:
        labels: The foreground labels.
    """

    labels: tuple[int, ...]

    def output_shape(self, shape: Shape) -> Shape:
        """As many channels more as there are labels."""
        return (shape[0] + len(self.labels), *shape[1:])

    def apply(self, sample: Sample, parameters: Always) -> Sample:
        """Move it."""
        del parameters
        image, previous = sample.image, sample.segmentation[1]
        channels = image.shape[0]
        sample.image = image.new_empty(self.output_shape(tuple(image.shape)))
        sample.image[:channels] = image
        for channel, label in enumerate(self.labels, start=channels):
            sample.image[channel] = previous == label
        sample.segmentation = torch.cat([sample.segmentation[:1], sample.segmentation[2:]])
        return sample


@dataclass(frozen=True, slots=True)
class Morph:
    """An operation on the mask of one label, given as the image channel that holds it."""

    channel: int
    operation: Operation
    radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomMorphology(SameShape):
    """Change the masks of some labels, in random order.

    Voxels that a label gains are taken from all other labels.

    Attributes:
        labels: Number of labels; their masks are the last channels of the image.
        label_probability: Share of labels that are changed.
        radius: Range of the ball's or disk's radius in voxels.
    """

    labels: int
    label_probability: float = 0.5
    radius: tuple[float, float] = (1.0, 8.0)

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Morph, ...] | None:
        """Draw labels, operations and radii."""
        chosen = draw_channels(random, self.labels, self.label_probability)
        changes = []
        for label in random.permutation(chosen):
            operation = OPERATIONS[int(random.integers(len(OPERATIONS)))]
            channel = shape[0] - self.labels + int(label)
            changes.append(Morph(channel, operation, float(random.uniform(*self.radius))))
        return tuple(changes) or None

    def apply(self, sample: Sample, parameters: tuple[Morph, ...]) -> Sample:
        """Change one mask after the other."""
        image = sample.image
        masks = range(image.shape[0] - self.labels, image.shape[0])
        for change in parameters:
            before = image[change.channel] > 0
            # Masks on a GPU are small enough to be brought to the CPU and back.
            after_xyz = morph(before.cpu().numpy(), change.operation, change.radius)
            after = torch.from_numpy(after_xyz).to(image.device)
            image[change.channel] = after
            gained = after & ~before
            for channel in masks:
                if channel != change.channel:
                    image[channel].masked_fill_(gained, 0)
        return sample


@dataclass(frozen=True, slots=True)
class Drop:
    """Which component of the mask in which channel: ``choice`` is the share of the candidates that come before it."""

    channel: int
    choice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DropComponent(SameShape):
    """Remove one small connected component from the masks of some labels.

    Attributes:
        labels: Number of labels; their masks are the last channels of the image.
        label_probability: Share of labels that lose a component.
        largest_share: Only components smaller than this share of the patch are removed.
    """

    labels: int
    label_probability: float = 0.5
    largest_share: float = 0.15

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Drop, ...] | None:
        """Draw labels, and for each a number that says which of its components."""
        first = shape[0] - self.labels
        chosen = draw_channels(random, self.labels, self.label_probability)
        return tuple(Drop(first + label, float(random.random())) for label in chosen) or None

    def apply(self, sample: Sample, parameters: tuple[Drop, ...]) -> Sample:
        """Remove the components."""
        for drop in parameters:
            channel = sample.image[drop.channel]
            mask = (channel > 0).cpu().numpy()
            found = component_to_drop(mask, drop.choice, self.largest_share * mask.size)
            if found is not None:
                box, component = found
                channel[box].masked_fill_(torch.from_numpy(component).to(channel.device), 0)
        return sample


def cascade_transforms(
    labels: Sequence[int], *, label_probability: float = 0.5, augment: bool = True
) -> list[Transform[Any]]:
    """What is done to the previous stage's segmentation in a cascade, after the outside was made background.

    Args:
        labels: The foreground labels.
        label_probability: Share of labels that each augmentation changes.
        augment: False for the validation during training.
    """
    transforms: list[Transform[Any]] = [PreviousStageToImage(tuple(labels))]
    if augment:
        morphology = RandomMorphology(labels=len(labels), label_probability=label_probability)
        drop = DropComponent(labels=len(labels), label_probability=label_probability)
        transforms += [Sometimes(0.4, morphology), Sometimes(0.2, drop)]
    return transforms
