"""The last good state, kept in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_pt.transfer.weights import bare_network, non_finite_tensors

Scaler = torch.amp.GradScaler


class Snapshot:
    """CPU copies of the weights, the optimiser's and the scaler's state, to return to after non-finite losses.

    It takes as much memory as the weights and the optimiser's state together; that memory is used again by the next
    snapshot.

    Args:
        network: The network in training; wrappers are looked through.
        optimizer: Its optimiser.
        scaler: The gradient scaler, if there is one.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, scaler: Scaler | None = None) -> None:
        self._network = bare_network(network)
        self._optimizer = optimizer
        self._scaler = scaler
        self._weights: dict[str, Tensor] = {}
        self._optimizer_state: dict[str, Any] = {}
        self._scaler_state: dict[str, Any] = {}

    def take(self) -> bool:
        """Copy the present state.

        Returns:
            Whether it is finite. If not, the earlier snapshot stays.
        """
        weights, state = self._own_weights(), self._optimizer.state_dict()
        if non_finite_tensors([weights, state]):
            return False
        self._weights = copied(weights, self._weights)
        self._optimizer_state = copied(state, self._optimizer_state)
        self._scaler_state = self._scaler.state_dict() if self._scaler is not None else {}
        return True

    def restore(self) -> None:
        """Give network, optimiser and scaler the state of the last snapshot; without one nothing changes."""
        if not self._weights:
            return
        with torch.no_grad():
            for name, tensor in self._own_weights().items():
                tensor.copy_(self._weights[name])
        self._optimizer.load_state_dict(copied(self._optimizer_state))
        if self._scaler is not None:
            self._scaler.load_state_dict(dict(self._scaler_state))

    def restore_spoilt_buffers(self) -> None:
        """Give buffers that are not finite their last good values.

        A batch whose loss is not finite leaves such statistics in layers of batch normalisation, even if the step that
        would follow is left out.
        """
        with torch.no_grad():
            for name, buffer in self._network.named_buffers():
                if name in self._weights and non_finite_tensors([buffer]):
                    buffer.copy_(self._weights[name])

    def _own_weights(self) -> dict[str, Tensor]:
        """Parameters and buffers, each once."""
        return {**dict(self._network.named_parameters()), **dict(self._network.named_buffers())}


def copied(value: Any, previous: Any = None) -> Any:
    """A copy on the CPU that shares nothing with ``value``; tensors of ``previous`` are used again if they fit."""
    if isinstance(value, Tensor):
        if isinstance(previous, Tensor) and previous.shape == value.shape and previous.dtype == value.dtype:
            return previous.copy_(value.detach())
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        known = previous if isinstance(previous, dict) else {}
        return {key: copied(item, known.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item, None) for item in value)
    return value
