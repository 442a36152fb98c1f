"""The optimisers of the recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from nnunet_pt.core.registry import Registry
from nnunet_pt.training.recipe import TrainingRecipe

ADAM_BETAS = (0.9, 0.999)
ADAN_BETAS = (0.02, 0.08, 0.01)

Parameters = list[Any]  # parameters, or groups of them as torch wants them


class Adan(Optimizer):
    """Adaptive Nesterov momentum with decoupled weight decay.

    Algorithm 1 of Xie et al. 2022, "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models",
    without restarts and with their starting values: the first moment is the first gradient, the second its square, and
    the moment of gradient differences zero.

    Args:
        params: Parameters or groups of them.
        lr: Step size.
        betas: Weights of the newest gradient, gradient difference and square in the three moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay; the parameters are divided by ``1 + lr * weight_decay``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, ...] = ADAN_BETAS,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the parameters once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[torch.nn.Parameter] = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step_group(group, parameters)
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[torch.nn.Parameter]) -> None:
        beta1, beta2, beta3 = group["betas"]
        values: list[Tensor] = list(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        states = [self._state_of(p) for p in parameters]
        first = [s["first_moment"] for s in states]
        difference = [s["difference_moment"] for s in states]
        second = [s["second_moment"] for s in states]
        previous = [s["previous_gradient"] for s in states]

        # The memory of the previous gradients holds whatever is needed next, so that only one temporary copy is made.
        work = previous
        torch._foreach_lerp_(first, gradients, beta1)
        torch._foreach_neg_(work)
        torch._foreach_add_(work, gradients)
        torch._foreach_lerp_(difference, work, beta2)
        torch._foreach_mul_(work, 1 - beta2)
        torch._foreach_add_(work, gradients)
        torch._foreach_mul_(second, 1 - beta3)
        torch._foreach_addcmul_(second, work, work, value=beta3)

        torch._foreach_copy_(work, difference)
        torch._foreach_mul_(work, 1 - beta2)
        torch._foreach_add_(work, first)
        scale = torch._foreach_sqrt(second)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_(values, work, scale, value=-group["lr"])
        torch._foreach_div_(values, 1 + group["lr"] * group["weight_decay"])
        torch._foreach_copy_(previous, gradients)

    def _state_of(self, parameter: torch.nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        gradient = parameter.grad
        if not state and gradient is not None:
            state["first_moment"] = gradient.clone()
            state["difference_moment"] = torch.zeros_like(gradient)
            state["second_moment"] = gradient.square()
            state["previous_gradient"] = gradient.clone()
        return state


def _sgd(recipe: TrainingRecipe, parameters: Parameters) -> Optimizer:
    optimizer = SGD(
        parameters,
        lr=recipe.initial_lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=_can_fuse(parameters),
    )
    if recipe.momentum > 0:
        # Torch 2.13's fused kernel leaves new momentum uninitialised if the gradient scaler skips the first step. To
        # begin with zeros is the same: the first momentum is the first gradient.
        for parameter in _each(parameters):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return optimizer


def _adam(recipe: TrainingRecipe, parameters: Parameters) -> Optimizer:
    return _adam_kind(Adam, recipe, parameters)


def _adamw(recipe: TrainingRecipe, parameters: Parameters) -> Optimizer:
    return _adam_kind(AdamW, recipe, parameters)


def _adam_kind(kind: type[Adam], recipe: TrainingRecipe, parameters: Parameters) -> Optimizer:
    beta1, beta2 = recipe.betas or ADAM_BETAS
    return kind(
        parameters,
        lr=recipe.initial_lr,
        betas=(beta1, beta2),
        weight_decay=recipe.weight_decay,
        amsgrad=recipe.amsgrad,
        fused=_can_fuse(parameters),
    )


def _adan(recipe: TrainingRecipe, parameters: Parameters) -> Optimizer:
    return Adan(parameters, lr=recipe.initial_lr, betas=recipe.betas or ADAN_BETAS, weight_decay=recipe.weight_decay)


OPTIMIZERS: Registry[Callable[[TrainingRecipe, Parameters], Optimizer]] = Registry(
    "optimiser", {"sgd": _sgd, "adam": _adam, "adamw": _adamw, "adan": _adan}
)


def build_optimizer(recipe: TrainingRecipe, parameters: Iterable[Any]) -> Optimizer:
    """The optimiser of a recipe, for all parameters in one group, as nnU-Net has it, or for groups of them.

    Args:
        recipe: Says which, with which learning rate, momentum and weight decay.
        parameters: In the network's order, which the state in checkpoints depends on. Fixed ones are left out of
            updates because they have no gradient. Or groups of parameters, as torch's optimisers take them.
    """
    optimizer = OPTIMIZERS[recipe.optimizer](recipe, list(parameters))
    optimizer.register_load_state_dict_post_hook(_follow_layouts)
    return optimizer


def _can_fuse(parameters: Parameters) -> bool:
    """Whether there is one kernel for the whole update, which reads and writes every parameter only once."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in _each(parameters))


def _each(parameters: Parameters) -> Iterator[torch.nn.Parameter]:
    for item in parameters:
        yield from item["params"] if isinstance(item, dict) else [item]


def _follow_layouts(optimizer: Optimizer) -> None:
    """Give loaded state the memory layout of its parameters, without which fused kernels would mix up the elements."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
