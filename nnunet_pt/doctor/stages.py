"""What a stage of the work on a dataset takes: memory, time, disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from nnunet_pt.doctor.findings import Finding

StageName = Literal["fingerprint", "preprocessing", "training", "prediction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A prediction for one stage; None where nothing could be measured.

    Attributes:
        name: The stage.
        configuration: The configuration; None for the fingerprint.
        memory_bytes: Peak of all processes together.
        largest_bytes: Peak of the process with the largest case alone; None where one process does everything.
        gpu_memory_bytes: Peak on the GPU; None if the CPU computes.
        unit: What ``unit_seconds`` is for: "case", "epoch".
        unit_seconds: Time for one, with all processes at work.
        units: How many there are: cases, epochs.
        seconds: Time of the whole stage.
        at_least: Whether the times are lower bounds, since the measurement did not end in its time.
        disk_bytes: What it writes.
        comment: How it was measured, or why it was not.
        out_of_memory: Whether the measurement failed for lack of memory.
        done: Whether its results are there already.
    """

    name: StageName
    configuration: str | None = None
    memory_bytes: int | None = None
    largest_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    unit: Literal["case", "epoch"] = "case"
    unit_seconds: float | None = None
    units: int = 0
    seconds: float | None = None
    at_least: bool = False
    disk_bytes: int | None = None
    comment: str = ""
    out_of_memory: bool = False
    done: bool = False

    def to_json(self) -> dict[str, Any]:
        """The JSON object; keys are part of the interface."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPrediction:
    """What the stages of a dataset take on this machine.

    Attributes:
        dataset: Folder name.
        plans_name: Plans identifier; None if there are no plans yet.
        device: Where networks compute.
        cases: Training cases.
        stages: In the order of the work.
        findings: What is too much for this machine.
        measured_s: How long the measurements took.
    """

    dataset: str
    plans_name: str | None
    device: str
    cases: int
    stages: tuple[Stage, ...]
    findings: tuple[Finding, ...]
    measured_s: float

    def to_json(self) -> dict[str, Any]:
        """The JSON object; keys are part of the interface. The findings are among those of the diagnosis."""
        return {
            "name": self.dataset,
            "plans": self.plans_name,
            "device": self.device,
            "cases": self.cases,
            "stages": [stage.to_json() for stage in self.stages],
            "measured_s": round(self.measured_s, 1),
        }
