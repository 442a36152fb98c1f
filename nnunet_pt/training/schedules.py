"""Learning rates as pure functions of the epoch, so that a continued training needs no schedule state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from nnunet_pt.training.recipe import TrainingRecipe

POLY_EXPONENT = 0.9


def linear_warmup(epoch: int, *, lr: float, epochs: int, start: int = 0) -> float:
    """Rise linearly from ``lr / epochs`` at ``start`` to ``lr`` after ``epochs`` epochs."""
    return lr / epochs * (1 + epoch - start)


def poly(epoch: int, *, lr: float, end: int, start: int = 0) -> float:
    """Fall from ``lr`` at ``start`` to zero at ``end``, which is never trained with (Chen et al. 2017, DeepLab)."""
    return float(lr * (1 - max(0, epoch - start) / (end - start)) ** POLY_EXPONENT)


def cosine(epoch: int, *, lr: float, end: int, start: int = 0) -> float:
    """Fall along half a cosine from ``lr`` at ``start`` to zero at ``end`` (Loshchilov & Hutter 2017, no restarts)."""
    return lr * (1 + math.cos(math.pi * max(0, epoch - start) / (end - start))) / 2


def constant(epoch: int, *, lr: float, end: int, start: int = 0) -> float:
    """Stay at ``lr``."""
    del epoch, end, start
    return lr


SCHEDULES: Mapping[str, Callable[..., float]] = {"poly": poly, "cosine": cosine, "constant": constant}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of epochs with one course of the learning rate.

    Attributes:
        start: First epoch.
        end: First epoch after it.
        lr: Largest learning rate.
        course: "warmup" or a name in :data:`SCHEDULES`.
        trains: "all" parameters or only the "heads".
        fresh_optimizer: Whether the phase starts with a new optimiser; otherwise its momentum is kept.
    """

    start: int
    end: int
    lr: float
    course: str
    trains: Literal["all", "heads"] = "all"
    fresh_optimizer: bool = False

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch of this phase."""
        if self.course == "warmup":
            return linear_warmup(epoch, lr=self.lr, epochs=self.end - self.start, start=self.start)
        return SCHEDULES[self.course](epoch, lr=self.lr, start=self.start, end=self.end)


def phases(recipe: TrainingRecipe) -> tuple[Phase, ...]:
    """The phases of a training, without gaps from epoch 0 to ``num_epochs``.

    Without ``head_epochs`` that is the warm-up (if any) and the schedule, both with the same optimiser.
    """
    heads, warm = recipe.head_epochs, recipe.head_epochs + recipe.warmup_epochs
    head_lr = recipe.initial_lr * recipe.head_lr_factor
    found = (
        Phase(start=0, end=heads // 2, lr=head_lr, course="warmup", trains="heads", fresh_optimizer=True),
        Phase(start=heads // 2, end=heads, lr=head_lr, course="poly", trains="heads", fresh_optimizer=heads // 2 == 0),
        Phase(start=heads, end=warm, lr=recipe.initial_lr, course="warmup", fresh_optimizer=True),
        Phase(
            start=warm,
            end=recipe.num_epochs,
            lr=recipe.initial_lr,
            course=recipe.schedule,
            fresh_optimizer=recipe.warmup_epochs == 0,
        ),
    )
    return tuple(phase for phase in found if phase.end > phase.start)


def phase_at(recipe: TrainingRecipe, epoch: int) -> Phase:
    """The phase an epoch belongs to; the last one for epochs after the end."""
    return next((phase for phase in phases(recipe) if epoch < phase.end), phases(recipe)[-1])


def lr_at(recipe: TrainingRecipe, epoch: int) -> float:
    """The learning rate of an epoch, 0-based.

    Raises:
        ValueError: If the training has no such epoch.
    """
    if not 0 <= epoch < recipe.num_epochs:
        raise ValueError(f"epoch {epoch} of {recipe.num_epochs}")
    return phase_at(recipe, epoch).lr_at(epoch)


def learning_rates(recipe: TrainingRecipe) -> list[float]:
    """The learning rate of every epoch."""
    return [lr_at(recipe, epoch) for epoch in range(recipe.num_epochs)]
