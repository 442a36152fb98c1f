"""What a workflow is: what a user asks for, and the steps that come of it."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_pt.cluster.settings import Kind
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.training.request import Fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One script.

    Attributes:
        name: Name of the job.
        title: What it does, for people.
        kind: What kind of resources it needs.
        body: Lines of bash.
        after: Names of the steps that have to be finished before.
        tasks: Numbers of the tasks of an array job; none for a single job.
        nodes_meet: All nodes of the job work on it together.
    """

    name: str
    title: str
    kind: Kind
    body: tuple[str, ...]
    after: tuple[str, ...] = ()
    tasks: tuple[int, ...] = ()
    nodes_meet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """Steps that belong together.

    Attributes:
        name: Name of the folder with the scripts.
        title: What it does, for people.
        datasets: Folder names of the datasets.
        steps: The steps; each comes after those that it waits for.
    """

    name: str
    title: str
    datasets: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToTrain:
    """What all trainings of a kind have in common.

    Attributes:
        trainer: Name of the recipe or trainer, as for ``nnUNetv2_train -tr``.
        arguments: More arguments of ``nnUNetv2_train``.
    """

    trainer: str = "nnUNetTrainer"
    arguments: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Arguments of ``nnUNetv2_train``."""
        return ([] if self.trainer == "nnUNetTrainer" else ["-tr", self.trainer]) + list(self.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRequest:
    """What a user asks for; the arguments of ``nnUNetv2_slurm crossval`` and ``pretrain_finetune``.

    Attributes:
        dataset: Number or name of the dataset that the models are for.
        configurations: What to train.
        folds: Folds to train.
        pretrain: Number or name of the dataset to train on before; None for a cross-validation from random weights.
        planner: Who makes the plans.
        plans_name: Identifier of the plans; by default the planner's.
        gpu_memory_target: Memory of the GPU to plan for in GB; None for the planner's own.
        verify_integrity: Check the datasets before they are measured.
        training: How to train.
        pretraining: How to pre-train.
    """

    dataset: int | str
    configurations: tuple[str, ...]
    folds: tuple[Fold, ...]
    pretrain: int | str | None = None
    planner: str = "ExperimentPlanner"
    plans_name: str | None = None
    gpu_memory_target: float | None = None
    verify_integrity: bool = False
    training: HowToTrain = HowToTrain()
    pretraining: HowToTrain = HowToTrain()

    def __post_init__(self) -> None:
        check_fields(self)
        for what, values in (("-c", self.configurations), ("-f", self.folds)):
            twice = sorted({str(v) for v in values if values.count(v) > 1})
            if twice or not values:
                raise UsageError(f"{what} names {'nothing' if not values else ', '.join(twice) + ' twice'}.")
        if "all" in self.folds and len(self.folds) > 1:
            raise UsageError("-f names 'all' beside other folds.", remedy="ask for them with two commands")
