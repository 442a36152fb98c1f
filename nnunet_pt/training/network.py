"""The network in training: compiled if that pays and works, and connected to those of other processes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nnunet_pt.core.console import get_logger
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.freezing import modules_with_fixed_statistics

_log = get_logger(__name__)
R = TypeVar("R")


def should_compile(device: torch.device, asked: bool | None) -> bool:
    """Whether to use torch.compile: on CUDA unless ``nnUNet_compile`` says no, as in nnU-Net.

    On the CPU the compiled network was slower than the eager one.

    Args:
        device: Where the network is.
        asked: ``nnUNet_compile``; None if it is not set.
    """
    return device.type == "cuda" and sys.platform != "win32" and asked is not False


class TrainedNetwork:
    """A network with its wrappers.

    Args:
        network: The network itself, on its device.
        device: The device.
        processes: The processes of the training.
        compiled: Whether to use torch.compile.

    Attributes:
        bare: The network itself.
    """

    def __init__(self, network: nn.Module, *, device: torch.device, processes: Processes, compiled: bool) -> None:
        self.bare = network
        self._device = device
        self._processes = processes
        self._compiled = compiled
        self._fixed: list[nn.Module] = []
        self._module: Callable[[Tensor], Any] | None = None
        self._wrap()

    def _wrap(self) -> None:
        if self._module is not None and self._processes.are_several:
            self._module = None
            gc.collect()  # the earlier wrapper leaves its hooks on the parameters until it is gone
        self._proven: set[bool] = set()  # whether it was seen to work in training, in evaluation
        self._wants_gradient = self._gradients_wanted()
        module: Any = torch.compile(self.bare) if self._compiled else self.bare
        if self._processes.are_several:
            ids = [self._device.index or 0] if self._device.type == "cuda" else None
            # Without deep supervision the heads of the lower resolutions are there, but not used
            unused = len(self.output_strides) > 1 and not self.deep_supervision
            module = nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=unused)
        self._module = module

    def _gradients_wanted(self) -> list[bool]:
        return [p.requires_grad for p in self.bare.parameters()]

    def train_only(self, names: Collection[str]) -> None:
        """From now on only some tensors are trained; the others and the statistics of their layers stay as they are.

        :meth:`follow` must be called before the network is used.

        Args:
            names: Of parameters and buffers.
        """
        for name, parameter in self.bare.named_parameters():
            parameter.requires_grad_(name in names)
            parameter.grad = None
        self._fixed = modules_with_fixed_statistics(self.bare, names)

    def follow(self) -> None:
        """Make new wrappers if other parameters want a gradient than when they were made."""
        if self._wants_gradient != self._gradients_wanted():
            self._wrap()

    def __call__(self, data: Tensor) -> Any:
        """Outputs for (B,C,*spatial): a tensor, or a list with deep supervision."""
        assert self._module is not None
        return self._module(data)

    @property
    def is_compiled(self) -> bool:
        """Whether torch.compile is in use."""
        return self._compiled

    @property
    def deep_supervision(self) -> bool:
        """Whether the network gives an output at every resolution."""
        return bool(self.bare.deep_supervision)

    @property
    def output_strides(self) -> Sequence[Sequence[int]]:
        """Voxels of the patch for one voxel of each output, along each axis, highest resolution first."""
        strides: Sequence[Sequence[int]] = self.bare.output_strides  # type: ignore[assignment]
        return strides

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters, each once."""
        return self.bare.parameters()

    def train(self) -> None:
        """Behave as in training (dropout, batch statistics)."""
        self.bare.train()
        for module in self._fixed:
            module.eval()

    def eval_mode(self) -> None:
        """Behave as in prediction."""
        self.bare.eval()

    def first_step_guard(self, step: Callable[[], R], on_fallback: Callable[[], None] = lambda: None) -> R:
        """Run a step; if the first one of a compiled network fails, go on without compilation.

        What is compiled for training and for evaluation are two things, so each has a first step.

        Args:
            step: Uses the network; it may be called twice.
            on_fallback: Called before the second time.
        """
        if not self._compiled or self.bare.training in self._proven:
            return step()
        try:
            result = step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in many ways: no C++ compiler, an old GPU, an unknown operation
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            _log.warning(
                "torch.compile does not work here, training goes on without it (nnUNet_compile=0 avoids the attempt). "
                "Reason: %s",
                reason,
            )
        else:
            self._proven.add(self.bare.training)
            return result
        self._compiled = False
        self._wrap()
        on_fallback()
        return step()
