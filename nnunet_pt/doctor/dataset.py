"""What each stage of the work on a dataset takes on this machine, from a measurement of each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nnunet_pt.core.console import Progress
from nnunet_pt.core.errors import UnknownNameError
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.doctor.case_jobs import measure_fingerprint, measure_preprocessing
from nnunet_pt.doctor.costs import CaseCost, TrainingCost, TrainingJob
from nnunet_pt.doctor.extrapolation import Workload, passes, prediction_memory, unmeasured
from nnunet_pt.doctor.findings import Finding
from nnunet_pt.doctor.measuring import Measurements, Outcome
from nnunet_pt.doctor.prediction_job import measure_prediction
from nnunet_pt.doctor.sizes import CaseSize, DatasetSizes, dataset_sizes, full_voxels
from nnunet_pt.doctor.stages import DatasetPrediction, Stage
from nnunet_pt.doctor.system import System
from nnunet_pt.doctor.too_much import too_much
from nnunet_pt.doctor.training_job import measure_training
from nnunet_pt.networks.device import choose_device
from nnunet_pt.planning.fingerprint_extractor import DEFAULT_PROCESSES, NUM_SAMPLES, MeasureJob
from nnunet_pt.plans.configuration import Configuration
from nnunet_pt.plans.fingerprint import FILE_NAME as FINGERPRINT_FILE
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.case import CaseJob, CaseSettings
from nnunet_pt.preprocessing.pipeline import PreprocessRequest
from nnunet_pt.preprocessing.splits import NUM_FOLDS
from nnunet_pt.training.recipe_lookup import find_recipe

if TYPE_CHECKING:
    from nnunet_pt.doctor.diagnosis import DoctorRequest

R = TypeVar("R")

WEIGHTS = {"fingerprint": 1.0, "preprocessing": 1.0, "training": 4.0, "prediction": 1.5}
MEMORY_SHARE = 0.9  # of what is free; a measurement that wants more fails
CHECKPOINT_BYTES_PER_WEIGHT = 8  # the weight and its momentum
CHECKPOINTS = 2  # best and final


def predict_dataset(request: DoctorRequest, workspace: Workspace, system: System) -> DatasetPrediction:
    """Measure and predict.

    Args:
        request: Which dataset, and how long measurements may take.
        workspace: Where the folders are.
        system: The machine.

    Raises:
        NnunetError: If the dataset, the plans, a configuration or the trainer does not exist, or files are damaged.
    """
    name = resolve_dataset_name(request.dataset if request.dataset is not None else "", workspace)
    sizes = dataset_sizes(name, workspace)
    plans = _plans(request, workspace, name)
    configurations = () if plans is None else _configurations(request, plans)
    find_recipe(request.trainer, workspace.settings)
    device = str(choose_device(request.device))
    started = time.monotonic()
    weights = [WEIGHTS["fingerprint"]]
    for stage in ("preprocessing", "training", "prediction"):
        weights += [WEIGHTS[stage]] * len(configurations)
    with (
        tempfile.TemporaryDirectory(prefix="nnunet_pt-doctor-") as folder,
        Progress(len(weights), "Measuring", "stage", disable=not request.progress, leave=False) as bar,
    ):
        dataset = _Dataset(
            name=name,
            request=request,
            workspace=workspace,
            system=system,
            sizes=sizes,
            device=device,
            scratch=Path(folder),
            measurements=Measurements(request.time_limit_s, weights, system.cpus, bar),
        )
        stages = [dataset.fingerprint()]
        if plans is not None:
            stages += dataset.configured(plans, configurations)
    return DatasetPrediction(
        dataset=name,
        plans_name=None if plans is None else plans.plans_name,
        device=device,
        cases=sizes.num_cases,
        stages=tuple(stages),
        findings=(*_no_plans(plans, name), *too_much(stages, system, device)),
        measured_s=time.monotonic() - started,
    )


def _plans(request: DoctorRequest, workspace: Workspace, name: str) -> Plans | None:
    preprocessed = workspace.settings.preprocessed
    if preprocessed is None:
        return None
    file = preprocessed / name / f"{request.plans_name}.json"
    if file.is_file():
        return Plans.load(file)
    there = sorted(p.stem for p in file.parent.glob("*lans*.json"))
    if there:
        raise UnknownNameError.of(f"plans file in {file.parent}", request.plans_name, there)
    return None


def _no_plans(plans: Plans | None, name: str) -> Iterator[Finding]:
    if plans is None:
        number = int(name[7:10]) if name[7:10].isdigit() else name
        yield Finding(
            key="dataset.plans",
            title="plans",
            status="note",
            found="there are none yet",
            why="preprocessing, training and prediction follow them, so nothing can be said about these",
            remedy=f"nnUNetv2_extract_fingerprint -d {number}  and  nnUNetv2_plan_experiment -d {number},"
            " then this command again",
        )


def _configurations(request: DoctorRequest, plans: Plans) -> tuple[Configuration, ...]:
    """Those that were asked for; by default all that need no predictions of another one."""
    found = [plans.configuration(n) for n in request.configurations or plans.configuration_names]
    return tuple(c for c in found if request.configurations is not None or c.previous_stage is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dataset:
    """A dataset, and what is needed to measure its stages."""

    name: str
    request: DoctorRequest
    workspace: Workspace
    system: System
    sizes: DatasetSizes
    device: str
    scratch: Path
    measurements: Measurements

    @property
    def _preprocessed(self) -> Path | None:
        folder = self.workspace.settings.preprocessed
        return None if folder is None else folder / self.name

    def configured(self, plans: Plans, configurations: Sequence[Configuration]) -> Iterator[Stage]:
        """The stages that follow plans, for each configuration."""
        costs: dict[str, CaseCost | None] = {}
        for configuration in configurations:
            stage, costs[configuration.name] = self.preprocessing(plans, configuration)
            yield stage
        for configuration in configurations:
            yield self.training(configuration)
        for configuration in configurations:
            yield self.prediction(plans, configuration, costs[configuration.name])

    def fingerprint(self) -> Stage:
        """Reading every case."""
        file = None if self._preprocessed is None else self._preprocessed / FINGERPRINT_FILE
        sizes, stage = self.sizes, Stage(name="fingerprint", done=file is not None and file.is_file())
        size = sizes.median(full_voxels)
        if size.case is None or sizes.reader_name is None:
            self.measurements.skip()
            return replace(stage, comment="there are no raw images to read")
        job = MeasureJob(
            case=size.case,
            reader_name=sizes.reader_name,
            labels=Labels.from_description(sizes.description),
            num_channels=sizes.description.num_channels,
            num_draws=NUM_SAMPLES // sizes.num_cases,
            part=self.scratch / "part.npz",
            stamp="",
        )
        outcome = self.measurements.run("fingerprint", measure_fingerprint, lambda limit: (job, limit))
        return self._workload(size, full_voxels, default_num_processes(DEFAULT_PROCESSES)).extended(stage, outcome)

    def preprocessing(self, plans: Plans, configuration: Configuration) -> tuple[Stage, CaseCost | None]:
        """Resampling every case, and what the measured one took."""

        def resampled(size: CaseSize) -> float:
            return float(prod(size.resampled(plans, configuration)))

        def work(size: CaseSize) -> float:
            return full_voxels(size) + 2 * resampled(size)

        sizes, stage = self.sizes, Stage(name="preprocessing", configuration=configuration.name)
        folder = self._preprocessed
        stage = replace(stage, done=folder is not None and len(_cases(folder, configuration)) >= sizes.num_cases)
        size = sizes.median(work)
        if size.case is None:
            self.measurements.skip()
            return replace(stage, comment="there are no raw images to read"), None
        standard = PreprocessRequest(dataset=self.name, configurations=(configuration.name,))
        workload = self._workload(size, work, standard.processes_for(0))
        labels = Labels.from_description(sizes.description)
        job = CaseJob(
            case=size.case,
            settings=CaseSettings.of(plans, configuration.name, labels, sizes.description.channel_names),
            folder=self.scratch / configuration.data_identifier,
            threads=max(1, self.system.cpus // workload.workers),
        )
        what = f"preprocessing {configuration.name}"
        outcome = self.measurements.run(what, measure_preprocessing, lambda limit: (job, limit))
        stage = workload.extended(stage, outcome)
        if outcome.value is not None:
            written = outcome.value.written_bytes * sizes.total(resampled) / resampled(size)
            stage = replace(stage, disk_bytes=round(written))
        return stage, outcome.value

    def _workload(self, size: CaseSize, measure: Callable[[CaseSize], float], workers: int) -> Workload:
        workers = min(workers, self.sizes.num_cases)
        return Workload(sizes=self.sizes, measured=size, measure=measure, workers=workers, cpus=self.system.cpus)

    def training(self, configuration: Configuration) -> Stage:
        """All epochs of a fold, without the final validation."""
        stage = Stage(name="training", configuration=configuration.name, unit="epoch")
        outcome = self._with_network(configuration, "training", measure_training)
        cost = outcome.value
        if cost is None:
            recipe = find_recipe(self.request.trainer, self.workspace.settings).recipe
            least = outcome.seconds * recipe.iterations_per_epoch if outcome.out_of_time and outcome.seconds else None
            return replace(
                unmeasured(stage, outcome),
                unit_seconds=least,
                units=recipe.num_epochs,
                seconds=None if least is None else least * recipe.num_epochs,
                at_least=least is not None,
            )
        return replace(
            stage,
            memory_bytes=cost.memory_bytes,
            gpu_memory_bytes=cost.gpu_bytes,
            unit_seconds=cost.epoch_s,
            units=cost.epochs,
            seconds=cost.epoch_s * cost.epochs,
            disk_bytes=CHECKPOINTS * CHECKPOINT_BYTES_PER_WEIGHT * cost.parameters,
            comment=_how(cost),
        )

    def prediction(self, plans: Plans, configuration: Configuration, reading: CaseCost | None) -> Stage:
        """As many cases as the final validation of a fold has."""
        stage = Stage(name="prediction", configuration=configuration.name)
        outcome = self._with_network(configuration, "prediction", measure_prediction)
        cost = outcome.value
        if cost is None:
            return unmeasured(stage, outcome)
        shapes = sorted((s.resampled(plans, configuration) for s in self.sizes.sizes), key=prod)
        median, largest = shapes[len(shapes) // 2], shapes[-1]
        own = 0 if reading is None else reading.peak_bytes - reading.base_bytes
        network = cost.pass_s * passes(median, configuration.patch_size, cost.flips)
        rest = 0.0 if reading is None else reading.seconds
        rest += 0.0 if cost.export_s is None else cost.export_s * cost.outputs * prod(median)
        # On a GPU reading and writing take place meanwhile; on a CPU they take the network's time
        seconds = network + rest / self.system.cpus if cost.gpu_bytes is None else max(network, rest)
        cases = ceil(self.sizes.num_cases / NUM_FOLDS)
        channels = self.sizes.description.num_channels
        return replace(
            stage,
            memory_bytes=prediction_memory(cost, largest, channels, own * prod(largest) / prod(median)),
            gpu_memory_bytes=cost.gpu_bytes,
            unit_seconds=seconds,
            units=cases,
            seconds=seconds * cases,
        )

    def _with_network(
        self, configuration: Configuration, what: str, function: Callable[[TrainingJob], R]
    ) -> Outcome[R]:
        """Measure with preprocessed cases if there are any, else with the one that was made for this."""
        preprocessed = self.workspace.preprocessed / self.name
        data, cases = preprocessed, _cases(preprocessed, configuration)
        if not cases:
            data, cases = self.scratch, _cases(self.scratch, configuration)
        reason = "" if cases else "no case is preprocessed"
        if configuration.previous_stage is not None:
            reason = f"needs predictions of {configuration.previous_stage}; takes little more than 3d_fullres"
        if reason:
            self.measurements.skip()
            return Outcome(reason=reason)
        scratch = self.scratch / f"{what}_{configuration.name}"
        scratch.mkdir()

        def job(seconds: float) -> TrainingJob:
            return TrainingJob(
                settings=self.workspace.settings,
                preprocessed=preprocessed,
                data=data,
                cases=cases,
                num_cases=self.sizes.num_cases,
                plans_name=self.request.plans_name,
                configuration=configuration.name,
                trainer=self.request.trainer,
                device=self.device,
                scratch=scratch,
                seconds=seconds,
                memory_bytes=int(MEMORY_SHARE * self.system.memory),
            )

        return self.measurements.run(f"{what} {configuration.name}", function, job)


def _how(cost: TrainingCost) -> str:
    if cost.gpu_bytes is not None:
        return "measured without torch.compile, which makes it faster"
    return "" if cost.whole_batch else "scaled up from a part of a batch; a larger -time_limit gives better figures"


def _cases(folder: Path, configuration: Configuration) -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in (folder / configuration.data_identifier).glob("*.pkl")))
