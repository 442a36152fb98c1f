"""What trainers change in the network of the plans; prediction needs this as much as training.

All of nnU-Net's other trainers, and those of its fine-tuning fork (``PretrainedTrainer...``), take the plans' network
as it is. Deep supervision is no difference: its heads are always part of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nnunet_pt.plans.plans import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerNetwork:
    """What a trainer changes in the network of the plans.

    Attributes:
        network: Name of a network that takes the place of the plans'; None for the plans'.
        batch_norm: Batch instead of the plans' normalisation.
        patch_size: Takes the place of the plans', voxels along each axis; None for the plans'.
    """

    network: str | None = None
    batch_norm: bool = False
    patch_size: tuple[int, ...] | None = None

    def architecture(self, planned: Architecture) -> Architecture:
        """The network that is trained: the plans', unless the trainer has another one or changes it.

        Raises:
            UnknownNameError: If there is no such network.
            PlansError: If the plans' network cannot have batch normalisation.
        """
        from nnunet_pt.networks.build import named_architecture, with_batch_norm  # imports torch

        if self.network is not None:
            return named_architecture(self.network)
        return with_batch_norm(planned) if self.batch_norm else planned


NETWORK_OF_TRAINER: Final[Mapping[str, TrainerNetwork]] = {
    "nnUNetTrainerBN": TrainerNetwork(batch_norm=True),
    **{
        f"nnUNet_Primus{version}{size}_Trainer": TrainerNetwork(network=f"Primus{version.strip('_')}{size}")
        for version in ("_", "V2", "V3")
        for size in "SBML"
    },
    "nnUNet_Primus_M_Trainer_BS8": TrainerNetwork(network="PrimusM"),
    "nnUNet_Primus_M_Trainer_BS8_2e4": TrainerNetwork(network="PrimusM"),
    **{
        f"_Primus_{size}_{patch}_BS1": TrainerNetwork(network=f"Primus{size}", patch_size=(patch, patch, patch))
        for size, patch in (("S", 96), ("B", 96), ("M", 96), ("L", 48))
    },
    "PretrainedTrainer_Primusx_150ep_small_debug": TrainerNetwork(patch_size=(48, 48, 48)),
}


def network_of_trainer(name: str) -> TrainerNetwork:
    """What the trainer of that name changes; nothing if it is not one that is known to."""
    return NETWORK_OF_TRAINER.get(name, TrainerNetwork())
