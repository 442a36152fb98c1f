"""What measurements are asked for, and what they give."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.files import write_bytes
from nnunet_pt.core.settings import Settings

INTERIM_FILE = "interim.pickle"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCost:
    """What a case took.

    Attributes:
        start_s: Time that only the first case of a worker takes.
        seconds: Time for the case.
        base_bytes: Memory of the worker before.
        peak_bytes: Its peak.
        shared_bytes: Part of that which all processes share: the code of libraries.
        job_s: Time for the whole measurement in its process, without starting that.
        written_bytes: Size of the files that were written.
    """

    start_s: float
    seconds: float
    base_bytes: int
    peak_bytes: int
    shared_bytes: int = 0
    job_s: float = 0.0
    written_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A few training steps to measure.

    Attributes:
        settings: Parsed environment.
        preprocessed: Folder of the dataset with plans and dataset.json.
        data: Folder that holds the data folder of the configuration: the same, or a temporary one.
        cases: Preprocessed cases to take patches from.
        num_cases: All cases of the dataset.
        plans_name: Plans identifier.
        configuration: Name of the configuration.
        trainer: Name of the trainer.
        device: Where to compute.
        scratch: Folder for what a training writes.
        seconds: Time to stay within, if possible.
        memory_bytes: Memory that may be taken; more fails instead of bringing the machine down.
    """

    settings: Settings
    preprocessed: Path
    data: Path
    cases: tuple[str, ...]
    num_cases: int
    plans_name: str
    configuration: str
    trainer: str
    device: str
    scratch: Path
    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """What training took.

    Attributes:
        step_s: One training iteration, with its data.
        validation_s: One validation iteration.
        memory_bytes: Peak of the training process and its workers.
        gpu_bytes: Peak on the GPU, if there is one.
        whole_batch: Whether whole batches were measured, and not a part that was scaled.
        steps: How many iterations were measured.
        parameters: Weights of the network.
        workers: Worker processes that made batches.
        epochs: Epochs of the trainer.
        iterations: Training iterations of an epoch.
        validation_iterations: Validation iterations of an epoch.
    """

    step_s: float = 0.0
    validation_s: float = 0.0
    memory_bytes: int = 0
    gpu_bytes: int | None = None
    whole_batch: bool = False
    steps: int = 0
    parameters: int = 0
    workers: int = 0
    epochs: int = 0
    iterations: int = 0
    validation_iterations: int = 0

    @property
    def epoch_s(self) -> float:
        """One epoch."""
        return self.iterations * self.step_s + self.validation_iterations * self.validation_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Interim:
    """What a measurement of training knows before it ends; used if it does not end in its time.

    Attributes:
        cost: Figures so far; without any if its ``steps`` are 0.
        begun: When the step under way began, on the system's monotonic clock.
    """

    cost: TrainingCost
    begun: float

    def save(self, folder: Path) -> None:
        """Leave it where the process that waits for the measurement will look."""
        write_bytes(folder / INTERIM_FILE, pickle.dumps(self))

    @classmethod
    def of(cls, folder: Path) -> Interim | None:
        """What a measurement has left in its folder."""
        file = folder / INTERIM_FILE
        if not file.is_file():
            return None
        found: Interim = pickle.loads(file.read_bytes())  # written by our own process, into a folder of our own
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionCost:
    """What prediction took.

    Attributes:
        pass_s: One pass of one tile through the network.
        flips: Passes for each tile: as it is, and mirrored.
        memory_bytes: Peak with a small image.
        gpu_bytes: Peak on the GPU, if there is one.
        export_s: Resampling and deciding, for each value of the logits; None if it was not measured.
        outputs: Channels of the logits.
    """

    pass_s: float
    flips: int
    memory_bytes: int
    gpu_bytes: int | None
    export_s: float | None
    outputs: int
