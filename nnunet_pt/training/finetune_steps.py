"""The steps of a fine-tuning, each shown as the command that a user could have typed instead."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from nnunet_pt.core.console import event, get_logger
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.planning.pretrained_plans import AdaptationMode, Normalization
from nnunet_pt.training.finetune_source import GivenWeights
from nnunet_pt.training.recipe_lookup import find_recipe
from nnunet_pt.training.request import TrainRequest
from nnunet_pt.training.run import command_line, with_flags
from nnunet_pt.training.state import BEST, FINAL, LATEST

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRequest:
    """What a user asks for; the arguments of ``nnUNetv2_finetune``.

    Attributes:
        source: Path of a checkpoint or of a model's folder, or a repository of the Hugging Face hub.
        training: How to train. Where the configuration, the trainer and the plans are empty, what is given decides;
            plans that are named are those whose network is to get the weights.
        name: The user's name for the pre-training; becomes a part of the name of the plans.
        mode: Which spacing, for checkpoints of nnssl.
        override_spacing: The spacing for the mode ``fixed``, mm.
        normalization: Which normalisation, for checkpoints of nnssl.
        num_workers: Worker processes of the preprocessing; None for the default.
        max_ram_gb: Memory budget of all of them together.
    """

    source: str
    training: TrainRequest
    name: str | None = None
    mode: AdaptationMode = "like_pretrained"
    override_spacing: tuple[float, ...] | None = None
    normalization: Normalization = "zscore"
    num_workers: int | None = None
    max_ram_gb: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)


class _Told(Protocol):
    def summary(self) -> str: ...


T = TypeVar("T", bound=_Told)


class Steps:
    """Shows and does one step after the other.

    Attributes:
        commands: The steps so far.
        done: Those of them that had been done before.
    """

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.done: list[str] = []

    def skip(self, command: Sequence[str], reason: str) -> None:
        """Show a step that was done before."""
        self.done.append(self._show(command))
        _log.info("Done before: %s", reason)

    def do(self, command: Sequence[str], work: Callable[[], T]) -> T:
        """Show a step, do it, and say what came of it."""
        self._show(command)
        result = work()
        _log.info(result.summary())
        return result

    def do_quietly(self, command: Sequence[str], work: Callable[[], None]) -> None:
        """Show a step and do it; it says itself what came of it."""
        self._show(command)
        work()

    def _show(self, command: Sequence[str]) -> str:
        line = shlex.join(command)
        self.commands.append(line)
        number = len(self.commands)
        known = event("step", {"number": number, "command": line}, style="heading")
        _log.info("\nStep %d:  %s", number, line, extra=known)
        return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A request on its way.

    Attributes:
        request: What the user asked for.
        workspace: Where the three folders are.
        dataset: Folder name of the dataset.
        given: The weights.
        steps: The steps so far.
    """

    request: FinetuneRequest
    workspace: Workspace
    dataset: str
    given: GivenWeights
    steps: Steps = field(default_factory=Steps)

    @property
    def number(self) -> str:
        """How to name the dataset in a command."""
        digits = self.dataset[7:10]
        return str(int(digits)) if digits.isdigit() else self.dataset

    @property
    def folder(self) -> Path:
        """The dataset's folder in nnUNet_preprocessed."""
        return self.workspace.preprocessed / self.dataset

    @property
    def name(self) -> str:
        """Name of the pre-training."""
        return self.request.name or self.given.default_name

    @property
    def resources(self) -> list[str]:
        """Arguments of the commands that work on cases."""
        workers = [] if self.request.num_workers is None else ["-np", str(self.request.num_workers)]
        return workers + ([] if self.request.max_ram_gb is None else ["--max_ram_gb", f"{self.request.max_ram_gb:g}"])

    def check_trainer(self, name: str) -> None:
        """Make sure that there is such a trainer and that it can have the values asked for, before hours of work.

        Raises:
            UnknownNameError: If there is no such trainer.
            TrainingError: If the values do not go together.
        """
        with_flags(find_recipe(name, self.workspace.settings).recipe, self.request.training)

    def fold_folder(self, wanted: TrainRequest) -> Path:
        """Where a training's results go."""
        recipe = find_recipe(wanted.trainer, self.workspace.settings).recipe
        model = f"{recipe.name}__{wanted.plans_name}__{wanted.configuration}"
        return self.workspace.results / self.dataset / model / f"fold_{wanted.fold}"

    def has_begun(self, wanted: TrainRequest) -> bool:
        """Whether a training has saved anything that it can go on from."""
        return any((self.fold_folder(wanted) / name).is_file() for name in (FINAL, LATEST, BEST))


def training_command(request: TrainRequest) -> list[str]:
    """The command of a training, without what are its defaults."""
    program = "nnUNetv2_train_pretrained" if request.of_plans else "nnUNetv2_train"
    usual = TrainRequest(
        dataset=request.dataset,
        configuration=request.configuration,
        fold=request.fold,
        trainer="PretrainedTrainer" if request.of_plans else "nnUNetTrainer",
        plans_name="" if request.of_plans else "nnUNetPlans",
    )
    what, *options = _grouped(command_line(replace(request, num_processes=1)))
    left_out = _grouped(command_line(usual))
    words = [program, *what, *(word for option in options if option not in left_out for word in option)]
    return [*words, "-num_gpus", str(request.num_processes)] if request.num_processes > 1 else words


def _grouped(words: Sequence[str]) -> list[list[str]]:
    """The positional arguments, then each option with its values."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("-"):
            groups.append([])
        groups[-1].append(word)
    return groups
