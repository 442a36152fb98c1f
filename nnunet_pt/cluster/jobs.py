"""Workflows as jobs: which steps there are, what each runs, and for which others it waits."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from nnunet_pt.cluster.settings import ClusterSettings
from nnunet_pt.cluster.workflow import HowToTrain, Step, Workflow, WorkflowRequest
from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.planning.presets import PLANNERS
from nnunet_pt.preprocessing.splits import NUM_FOLDS, SPLITS_FILE, load_splits
from nnunet_pt.training.recipe_lookup import find_recipe

TASK = "$SLURM_ARRAY_TASK_ID"
FIRST_STAGE, CASCADE = "3d_lowres", "3d_cascade_fullres"
_WIDTH = 90  # after which a command goes on in the next line
_log = get_logger(__name__)


def workflow_of(request: WorkflowRequest, cluster: ClusterSettings, workspace: Workspace) -> Workflow:
    """The steps of a workflow.

    Raises:
        NnunetError: If a dataset, planner or trainer does not exist.
    """
    maker = _Maker(request, cluster, workspace)
    maker.warn_of_folds()
    return maker.crossval() if request.pretrain is None else maker.pretrain_finetune()


class _Maker:
    def __init__(self, request: WorkflowRequest, cluster: ClusterSettings, workspace: Workspace) -> None:
        self.request = request
        self.cluster = cluster
        self.workspace = workspace
        self.dataset = resolve_dataset_name(request.dataset, workspace)
        self.number = _number(self.dataset)
        self.plans = request.plans_name or PLANNERS[request.planner].plans_name

    def crossval(self) -> Workflow:
        """Plan, preprocess, train all folds, choose the best."""
        request, number = self.request, self.number
        measure = self.measure(number)
        plan = Step(
            name=f"plan_{number}",
            title=f"plan the experiment for {self.dataset}",
            kind="short",
            body=(*self.merge_measures(number), run(self.plan_words())),
            after=(measure.name,),
        )
        data = self.preprocess(number, self.plans, plan)
        several = len(request.configurations) > 1
        extra = ["--npz"] if several and "--npz" not in request.training.arguments else []
        trainings = []
        for configuration in self.configurations():
            before = [data.name, *self.first_stage(f"train_{number}", configuration)]
            trainings.append(
                self.train(f"train_{number}_{configuration}", configuration, self.plans, extra=extra, after=before)
            )
        words = ["nnUNetv2_find_best_configuration", number, "-c", *request.configurations]
        last = self.summarize(words, self.plans, trainings, f"best_{number}", "choose the best model or ensemble")
        return Workflow(
            name=f"crossval_{number}",
            title=f"cross-validation of {', '.join(request.configurations)} on {self.dataset}",
            datasets=(self.dataset,),
            steps=(measure, plan, data, *trainings, *last),
        )

    def pretrain_finetune(self) -> Workflow:
        """Plan for one dataset, train on another one first, and go on from those weights."""
        request, number = self.request, self.number
        assert request.pretrain is not None
        first_dataset = resolve_dataset_name(request.pretrain, self.workspace)
        if first_dataset == self.dataset:
            raise UsageError(f"-pretrain and -finetune both name {self.dataset}.", expected="two datasets")
        first = _number(first_dataset)
        moved = "pretrainPlans"
        back = f"{moved}_from_{first}"
        measures = [self.measure(number), self.measure(first)]
        move = ["nnUNetv2_move_plans_between_datasets"]
        plan = Step(
            name=f"plan_{number}_{first}",
            title=f"plan for {self.dataset}; the same network for {first_dataset}; and back under a name of its own",
            kind="short",
            body=(
                *self.merge_measures(number),
                *self.merge_measures(first),
                run(self.plan_words()),
                run([*move, "-s", number, "-t", first, "-sp", self.plans, "-tp", moved]),
                run([*move, "-s", first, "-t", number, "-sp", moved, "-tp", back, "--fit"]),
            ),
            after=tuple(step.name for step in measures),
        )
        data = [self.preprocess(first, moved, plan), self.preprocess(number, back, plan)]
        trainings, finetunings = [], []
        for configuration in self.configurations():
            before = [data[0].name, *self.first_stage(f"pretrain_{first}", configuration)]
            pretraining = self.pretrain(first, first_dataset, configuration, moved, after=before)
            folder = self.folder(first_dataset, request.pretraining, moved, configuration)
            trainings.append(pretraining)
            finetunings.append(
                self.train(
                    f"finetune_{number}_{configuration}",
                    configuration,
                    back,
                    weights=f"{folder}/fold_all/checkpoint_final.pth",
                    after=[pretraining.name, data[1].name, *self.first_stage(f"finetune_{number}", configuration)],
                )
            )
        words = ["nnUNetv2_find_best_configuration", number, "-c", *request.configurations, "--disable_ensembling"]
        title = "Dice over all folds, and whether postprocessing helps"
        last = self.summarize(words, back, finetunings, f"best_{number}", title)
        return Workflow(
            name=f"pretrain_{first}_finetune_{number}",
            title=f"pre-training on {first_dataset}, fine-tuning on {self.dataset}",
            datasets=(first_dataset, self.dataset),
            steps=(*measures, plan, *data, *trainings, *finetunings, *last),
        )

    def measure(self, number: str) -> Step:
        """The fingerprint."""
        words = ["nnUNetv2_extract_fingerprint", "-d", number]
        verify = self.request.verify_integrity
        return Step(
            name=f"fingerprint_{number}",
            title=f"{'check and ' if verify else ''}measure the images of dataset {number}",
            kind="cases",
            body=(run(words + ["--verify_dataset_integrity"] * verify, self.part()),),
            tasks=self.parts(),
        )

    def merge_measures(self, number: str) -> tuple[str, ...]:
        """What is left to do for the fingerprint when all parts are there."""
        return (run(["nnUNetv2_extract_fingerprint", "-d", number]),) if self.parts() else ()

    def preprocess(self, number: str, plans: str, after: Step) -> Step:
        """The data of all configurations."""
        words = ["nnUNetv2_preprocess", "-d", number, "-plans_name", plans, "-c", *self.request.configurations]
        return Step(
            name=f"preprocess_{number}",
            title=f"preprocess dataset {number}",
            kind="cases",
            body=(run(words, self.part()),),
            after=(after.name,),
            tasks=self.parts(),
        )

    def pretrain(self, number: str, dataset: str, configuration: str, plans: str, after: Sequence[str]) -> Step:
        """One training on all cases."""
        how = self.request.pretraining
        folder = self.folder(dataset, how, plans, configuration)
        words = [number, configuration, "all", "-p", plans, *how.words()]
        return self.training_step(
            f"pretrain_{number}_{configuration}", f"pre-train {configuration} on all cases", folder, words, after=after
        )

    def train(
        self,
        name: str,
        configuration: str,
        plans: str,
        *,
        after: Sequence[str],
        weights: str | None = None,
        extra: Sequence[str] = (),
    ) -> Step:
        """A training for each fold."""
        how = self.request.training
        folder = self.folder(self.dataset, how, plans, configuration)
        words = [self.number, configuration, "$fold", *([] if plans == "nnUNetPlans" else ["-p", plans])]
        words += [*how.words(), *extra]
        verb = "train" if weights is None else "fine-tune"
        title = f"{verb} {configuration} on {self.dataset}, " + (
            "a task for each fold" if self.folds() else "all cases"
        )
        return self.training_step(name, title, folder, words, after=after, weights=weights, tasks=self.folds())

    def training_step(
        self,
        name: str,
        title: str,
        folder: str,
        words: Sequence[str],
        *,
        after: Sequence[str],
        weights: str | None = None,
        tasks: tuple[int, ...] = (),
    ) -> Step:
        """A training that continues if there is something to continue."""
        wanted = self.cluster.resources["training"]
        together = wanted.nodes > 1
        scratch = [] if self.cluster.scratch is None else ["-scratch", self.cluster.scratch]
        program = ["nnUNetv2_train", *words, *scratch]
        if together:
            program = ["srun", "--cpus-per-task=$SLURM_CPUS_PER_TASK", *program]
        elif wanted.num_gpus > 1:
            program += ["-num_gpus", str(wanted.num_gpus)]
        begin = program if weights is None else [*program, "-pretrained_weights", "$weights"]
        body = [
            f"fold={TASK if tasks else 'all'}",
            f'folder="$nnUNet_results/{folder}/fold_$fold"',
            *([] if weights is None else [f'weights="$nnUNet_results/{weights}"']),
            "",
            'if finished "$folder"; then',
            '    echo "Finished before: $folder"',
            'elif has_checkpoint "$folder"; then',
            f"    {run([*program, '--c'])}",
            "else",
            f"    {run(begin)}",
            "fi",
        ]
        return Step(
            name=name,
            title=title,
            kind="training",
            body=tuple(body),
            after=tuple(after),
            tasks=tasks,
            nodes_meet=together,
        )

    def summarize(
        self, words: Sequence[str], plans: str, trainings: Sequence[Step], name: str, title: str
    ) -> tuple[Step, ...]:
        """What is done when all folds are there; nothing if there are none to compare."""
        if not self.folds():
            return ()
        trainer = self.recipe(self.request.training)
        words = [*words, "-p", plans, "-tr", trainer, "-f", *map(str, self.folds())]
        return (
            Step(
                name=name, title=title, kind="short", body=(run(words),), after=tuple(step.name for step in trainings)
            ),
        )

    def configurations(self) -> tuple[str, ...]:
        """What to train; the second stage of a cascade comes after the first."""
        return tuple(sorted(self.request.configurations, key=lambda name: name == CASCADE))

    def first_stage(self, step: str, configuration: str) -> tuple[str, ...]:
        """The step without whose predictions this training cannot begin; none if this workflow has none."""
        both = configuration == CASCADE and FIRST_STAGE in self.request.configurations
        return (f"{step}_{FIRST_STAGE}",) if both else ()

    def warn_of_folds(self) -> None:
        """Say that folds do not go with the splits or with a cascade, before days of training tell it."""
        preprocessed = self.workspace.settings.preprocessed
        file = None if preprocessed is None else preprocessed / self.dataset / SPLITS_FILE
        number = len(load_splits(file)) if file is not None and file.is_file() else NUM_FOLDS
        beyond = [str(fold) for fold in self.folds() if fold >= number]
        if beyond:
            _log.warning(
                "%s has %d folds. For others (-f %s) cases are drawn at random, so that folds overlap; the last step, "
                "which compares all, then fails.",
                self.dataset,
                number,
                " ".join(beyond),
            )
        missing = [str(fold) for fold in range(number) if fold not in self.folds()]
        if self.folds() and missing and {FIRST_STAGE, CASCADE} <= {*self.request.configurations}:
            _log.warning(
                "%s learns from predictions of all cases, which %s makes only when all its folds are trained. Without "
                "folds %s its jobs will fail, unless these were trained before.",
                CASCADE,
                FIRST_STAGE,
                ", ".join(missing),
            )

    def plan_words(self) -> list[str]:
        """The command that plans."""
        words = ["nnUNetv2_plan_experiment", "-d", self.number]
        words += [] if self.request.planner == "ExperimentPlanner" else ["-pl", self.request.planner]
        if self.request.gpu_memory_target is not None:
            words += ["-gpu_memory_target", f"{self.request.gpu_memory_target:g}"]
        usual = PLANNERS[self.request.planner].plans_name
        return words + ([] if self.plans == usual else ["-overwrite_plans_name", self.plans])

    def folder(self, dataset: str, how: HowToTrain, plans: str, configuration: str) -> str:
        """Folder of a model in nnUNet_results."""
        return f"{dataset}/{self.recipe(how)}__{plans}__{configuration}"

    def recipe(self, how: HowToTrain) -> str:
        """The trainer's name in names of folders."""
        return find_recipe(how.trainer, self.workspace.settings).recipe.name

    def folds(self) -> tuple[int, ...]:
        """Numbers of the folds; none if the training is on all cases."""
        return tuple(fold for fold in self.request.folds if isinstance(fold, int))

    def parts(self) -> tuple[int, ...]:
        """Numbers of the parts of the cases; none if they are not shared out."""
        return tuple(range(self.cluster.parts)) if self.cluster.parts > 1 else ()

    def part(self) -> tuple[str, ...]:
        """Arguments of a command that works on one part of the cases."""
        return ("-num_parts", str(self.cluster.parts), "-part_id", TASK) if self.parts() else ()


def run(words: Sequence[str], more: Sequence[str] = ()) -> str:
    """A command that is looked after: it is told when the time limit comes near."""
    lines = ["run"]
    for word in map(_quoted, (*words, *more, "--no_pbar")):
        if word.startswith("-") and len(lines[-1]) > _WIDTH:
            lines.append("        ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _quoted(word: str) -> str:
    """A word for bash in which variables that stand alone or in options keep their meaning."""
    if "$" not in word:
        return shlex.quote(word)
    return f'"{word}"'


def _number(dataset: str) -> str:
    """How to name a dataset in a command."""
    return str(int(dataset[7:10])) if dataset[7:10].isdigit() else dataset
