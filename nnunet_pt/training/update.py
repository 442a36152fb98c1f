"""One step of the optimiser, and what becomes of a training whose loss is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.training.parts import Parts
from nnunet_pt.training.snapshot import Scaler, Snapshot
from nnunet_pt.training.state import TrainingState

MOST_NON_FINITE = 5  # losses in a row, before training returns to its last good state
MOST_RETURNS = 3
LOWEST_SCALE = 2.0**-10  # a gradient scaler below this is not calibrating any more
NUM_CULPRITS = 20


class Updater:
    """Updates the weights, but never with what is not finite.

    A loss or gradients that are not finite name the cases of the batch, and the step is left out. After
    :data:`MOST_NON_FINITE` in a row training returns to its last good state at half the learning rate. If that does
    not help for :data:`MOST_RETURNS` times, it ends with an explanation.

    Args:
        parts: What the trainer works with.
        optimizer: The optimiser.
        gradient_clip: Largest norm of the gradient; None for no limit.

    Attributes:
        scaler: Scales the loss, so that small gradients do not vanish in float16; None if that is not needed.
    """

    def __init__(self, parts: Parts, optimizer: Optimizer, gradient_clip: float | None) -> None:
        self._parts = parts
        self._limit = math.inf if gradient_clip is None else gradient_clip
        self.scaler: Scaler | None = torch.amp.GradScaler() if parts.precision.needs_scaling else None
        self.use(optimizer)
        self._culprits: list[str] = []

    def use(self, optimizer: Optimizer) -> None:
        """Go on with another optimiser; there is no good state until the next :meth:`keep`."""
        self._optimizer = optimizer
        self._snapshot = Snapshot(self._parts.network.bare, optimizer, self.scaler)

    def keep(self) -> None:
        """The present state is a good one to return to, if it is finite."""
        self._snapshot.take()

    def step(
        self,
        loss_of_batch: Callable[[], Tensor],
        *,
        keys: Sequence[str],
        state: TrainingState,
        request: Callable[[], float],
        on_fallback: Callable[[], None],
    ) -> tuple[float, int]:
        """One update.

        Args:
            loss_of_batch: Computes the loss; it may be called twice.
            keys: The cases of the batch.
            state: Where the training is; skipped steps and returns are counted in it.
            request: What this process was asked for meanwhile; added up over all processes on the way.
            on_fallback: Called if the network turns out to work only without compilation.

        Returns:
            Mean loss and sum of the requests of all processes.

        Raises:
            TrainingError: If the loss is not finite again and again.
        """
        scaler = self.scaler

        def compute() -> Tensor:
            self._optimizer.zero_grad(set_to_none=True)
            loss = loss_of_batch()
            (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            return loss.detach().float()

        loss = self._parts.network.first_step_guard(compute, on_fallback)
        if scaler is not None:
            scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parts.network.parameters(), self._limit).float()
        own = torch.stack([loss, norm, torch.tensor(request(), device=loss.device)])
        # Losses and requests of all processes in one message; a NaN anywhere is a NaN everywhere
        total, norms, requests = self._parts.processes.sum(own.clone()).tolist()
        mean = total / self._parts.processes.world_size
        calibrating = scaler is not None and float(scaler.get_scale()) > LOWEST_SCALE
        if math.isfinite(mean) and (calibrating or math.isfinite(norms)):
            if scaler is None:
                self._optimizer.step()
            else:
                scaler.step(self._optimizer)  # leaves the step out itself if gradients have overflowed
            state.non_finite_in_a_row = 0
        else:
            guilty = math.isfinite(mean) or not math.isfinite(float(own[0]))
            self._skip(mean, keys if guilty else (), state)
        if scaler is not None:
            scaler.update()
        return mean, round(requests)

    def _skip(self, loss: float, keys: Sequence[str], state: TrainingState) -> None:
        """Leave out a step, and return to the last good state if there were too many of them."""
        monitor = self._parts.monitor
        self._snapshot.restore_spoilt_buffers()
        state.skipped_steps += 1
        state.non_finite_in_a_row += 1
        cases = list(dict.fromkeys(self._parts.processes.collect(keys)))
        self._culprits = [*self._culprits, *cases][-NUM_CULPRITS:]
        what = "gradients that are not finite" if math.isfinite(loss) else f"loss {loss}"
        monitor.warn(
            f"The batch of the cases {', '.join(cases)} gave {what}; epoch {state.epoch}, iteration "
            f"{state.iteration}. The step is skipped."
        )
        if state.non_finite_in_a_row < MOST_NON_FINITE:
            return
        if state.returns >= MOST_RETURNS:
            raise TrainingError(
                f"The loss was not finite in {MOST_NON_FINITE} steps in a row, "
                "and smaller learning rates did not help.",
                found=f"last batches with the cases {', '.join(dict.fromkeys(self._culprits))}",
                remedy="look at the images of these cases (extreme intensities?); train with a smaller learning rate "
                "(-lr) or in full precision (-precision fp32). The last good checkpoint is kept.",
            )
        self._snapshot.restore()
        state.returns += 1
        state.rate_factor /= 2
        state.non_finite_in_a_row = 0
        monitor.warn(
            f"{MOST_NON_FINITE} steps in a row had to be skipped: training returns to the weights of its last good "
            f"state, with {state.rate_factor:g} times the planned learning rate from now on."
        )
