"""Each stage of the work on a dataset: measured, and extended to all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.doctor.case_jobs import measure_fingerprint, measure_preprocessing
from nnunet_pt.doctor.costs import CaseCost, Interim, TrainingCost, TrainingJob
from nnunet_pt.doctor.extrapolation import Workload, passes, prediction_memory, unmeasured
from nnunet_pt.doctor.measuring import Measurements, Outcome
from nnunet_pt.doctor.prediction_job import measure_prediction
from nnunet_pt.doctor.sizes import CaseSize, DatasetSizes, full_voxels
from nnunet_pt.doctor.stages import Stage
from nnunet_pt.doctor.system import System
from nnunet_pt.doctor.training_job import measure_training
from nnunet_pt.planning.fingerprint_extractor import DEFAULT_PROCESSES, NUM_SAMPLES, MeasureJob
from nnunet_pt.plans.configuration import Configuration
from nnunet_pt.plans.fingerprint import FILE_NAME as FINGERPRINT_FILE
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.case import CaseJob, CaseSettings
from nnunet_pt.preprocessing.pipeline import PreprocessRequest
from nnunet_pt.preprocessing.splits import NUM_FOLDS

if TYPE_CHECKING:
    from nnunet_pt.doctor.diagnosis import DoctorRequest

R = TypeVar("R")

MEMORY_SHARE = 0.9  # of what is free; a measurement that wants more fails
CHECKPOINT_BYTES_PER_WEIGHT = 8  # the weight and its momentum
CHECKPOINTS = 2  # best and final


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStages:
    """A dataset, and what is needed to measure its stages.

    Attributes:
        name: Its folder name.
        request: What to measure.
        workspace: Where the folders are.
        system: The machine.
        sizes: The cases.
        device: Where networks compute.
        scratch: A temporary folder.
        measurements: Run the measurements.
    """

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
        interim = Interim.of(self._scratch("training", configuration)) if outcome.out_of_time else None
        cost = outcome.value
        if cost is None and interim is not None and interim.cost.steps:
            cost = interim.cost
        if cost is None and interim is not None:
            # Each step takes longer than the one that was under way
            epoch = (outcome.ended - interim.begun) * interim.cost.iterations
            epochs = interim.cost.epochs
            stage = replace(stage, unit_seconds=epoch, units=epochs, seconds=epoch * epochs, at_least=True)
        if cost is None:
            return unmeasured(stage, outcome)
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

    def _scratch(self, what: str, configuration: Configuration) -> Path:
        return self.scratch / f"{what}_{configuration.name}"

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
        scratch = self._scratch(what, configuration)
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
