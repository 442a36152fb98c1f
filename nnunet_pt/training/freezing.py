"""Which layers are trained in which epoch, and the optimiser's groups and state that follow from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.networks.primus import Primus
from nnunet_pt.networks.unet import UNet
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.schedules import phase_at, phases
from nnunet_pt.transfer.layer_selection import select
from nnunet_pt.transfer.names import keys_of, lies_in

FACTOR = "lr_factor"  # a group's learning rate relative to that of the schedule


@dataclass(frozen=True, slots=True)
class Stage:
    """What is trained during a stretch of epochs.

    Attributes:
        trains: "all" layers or only the "heads".
        frozen: Layers that are left out, as in the recipe's ``freeze``.
    """

    trains: Literal["all", "heads"] = "all"
    frozen: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name in checkpoints."""
        return f"{self.trains} but {' '.join(self.frozen)}" if self.frozen else self.trains

    @classmethod
    def of(cls, key: str) -> Stage:
        """The stage of that name."""
        trains, _, frozen = key.partition(" but ")
        return cls("heads" if trains == "heads" else "all", tuple(frozen.split()))


def stage_at(recipe: TrainingRecipe, epoch: int) -> Stage:
    """The stage that an epoch belongs to."""
    frozen = recipe.freeze_epochs is None or epoch < recipe.freeze_epochs
    return Stage(phase_at(recipe, epoch).trains, recipe.freeze if frozen else ())


class Layers:
    """The tensors of a network that each stage trains.

    Args:
        network: The network itself.
        recipe: Says what is frozen.
        new_input: Whether the input layer belongs to what is trained with the heads, because it had to be adapted.

    Raises:
        UsageError: If a pattern of ``freeze`` or ``lr_factors`` matches nothing.
        TrainingError: If nothing would be trained, or if it is not known what the network's heads are.
    """

    def __init__(self, network: nn.Module, recipe: TrainingRecipe, *, new_input: bool) -> None:
        self._recipe = recipe
        self._network = network
        self._parameters = dict(network.named_parameters())
        names = [*self._parameters, *dict(network.named_buffers())]
        self._all = frozenset(names)
        self._heads = head_names(network, new_input=new_input) if recipe.head_epochs else frozenset()
        self._factors = self._chosen_factors()
        select(names, recipe.freeze, option="-freeze")
        for stage in {stage_at(recipe, phase.start) for phase in phases(recipe)}:
            if not self.trained(stage) & self._parameters.keys():
                what = "the whole network" if stage.trains == "all" else "all layers that the first epochs train"
                raise TrainingError(
                    f"Nothing is left to be trained: -freeze concerns {what}.",
                    found=" ".join(recipe.freeze),
                    expected="at least one layer that is not frozen; usually the decoder is trained",
                    remedy="freeze less, for example  -freeze encoder",
                )

    def trained(self, stage: Stage) -> frozenset[str]:
        """Names of the parameters and buffers that a stage may change."""
        chosen = self._heads if stage.trains == "heads" else self._all
        return chosen - select(self._all, stage.frozen, option="-freeze")

    def groups(self, network: nn.Module) -> list[Any]:
        """What an optimiser is made from: the parameters that want a gradient, in groups if their rates differ.

        Args:
            network: The network, or a part of it.
        """
        wanted = [p for p in network.parameters() if p.requires_grad]
        if not self._factors:
            return wanted
        of_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in wanted:
            of_factor.setdefault(self._factors.get(parameter, 1.0), []).append(parameter)
        return [{"params": parameters, FACTOR: factor} for factor, parameters in of_factor.items()]

    def describe(self, stage: Stage) -> str:
        """What a stage trains, for the log."""
        names = self.trained(stage) & self._parameters.keys()
        count, total = (sum(self._parameters[n].numel() for n in chosen) for chosen in (names, self._parameters.keys()))
        share = f"{count:,} of {total:,} parameters ({count / total:.1%})"
        frozen = f"all but what is frozen ({' '.join(stage.frozen)})"
        if stage.trains == "heads":
            return f"Only the decoder{' and the input layer' * (not self._heads_only())} is trained: {share}."
        return f"Trained is {frozen if stage.frozen else 'everything'}: {share}."

    def _heads_only(self) -> bool:
        return self._heads == head_names(self._network, new_input=False)

    def _chosen_factors(self) -> dict[nn.Parameter, float]:
        found: dict[nn.Parameter, float] = {}
        for pattern, factor in self._recipe.layer_factors():
            found |= {
                self._parameters[name]: factor for name in select(self._parameters, [pattern], option="-lr_factor")
            }
        return found


def head_names(network: nn.Module, *, new_input: bool) -> frozenset[str]:
    """Names of the tensors of a network's heads: everything that self-supervised pre-training does not give.

    Of a U-Net that is the decoder, without the encoder that is registered in it, too; of a Primus the convolutions
    from tokens to logits.

    Args:
        network: The network itself.
        new_input: Add the input layer.

    Raises:
        TrainingError: If the network is of another kind.
    """
    prefixes = {UNet: "decoder.", Primus: "up_projection."}
    prefix = next((text for kind, text in prefixes.items() if isinstance(network, kind)), None)
    if prefix is None:
        raise TrainingError(
            f"The heads of a {type(network).__name__} cannot be trained on their own.",
            expected=f"one of the networks {', '.join(kind.__name__ for kind in prefixes)}",
            remedy="use a trainer without head_epochs, and say what to freeze: -freeze LAYERS -freeze_epochs N",
        )
    tensors = [*dict(network.named_parameters()), *dict(network.named_buffers())]
    own = input_layer(network) if new_input else ()
    return frozenset(name for name in tensors if name.startswith(prefix) or name in own)


def input_layer(network: nn.Module) -> frozenset[str]:
    """Names of the parameters of the convolutions that see the image."""
    keys = keys_of(network).in_proj
    return frozenset(n for n, _ in network.named_parameters() if any(lies_in(n, key) for key in keys))


def modules_with_fixed_statistics(network: nn.Module, trained: Collection[str]) -> list[nn.Module]:
    """Normalisation layers whose statistics of the data must stay as they are, because nothing in them is trained."""
    found = []
    for name, module in network.named_modules():
        if getattr(module, "running_mean", None) is not None:
            own = [*module._parameters, *module._buffers]
            if not any(f"{name}.{tensor}" in trained for tensor in own):
                found.append(module)
    return found


def keep_state(optimizer: Optimizer, earlier: Optimizer) -> None:
    """Give an optimiser the state of an earlier one, as far as they have the same parameters."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state: dict[str, Tensor] | None = earlier.state.get(parameter)
            if state:
                optimizer.state[parameter] = state
