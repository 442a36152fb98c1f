"""All checks of a machine, and with a dataset what each stage would take there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nnunet_pt.core.errors import SettingsError
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.doctor.findings import Finding
from nnunet_pt.doctor.folders import check_folders
from nnunet_pt.doctor.gpu import TorchBuild, check_gpus
from nnunet_pt.doctor.machine import check_machine
from nnunet_pt.doctor.software import check_software
from nnunet_pt.doctor.stages import DatasetPrediction
from nnunet_pt.doctor.system import System

FORMAT = 1  # of the JSON object; changes when keys change their meaning or go away
ENVIRONMENT = "folders.environment"
DEFAULT_TIME_LIMIT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRequest:
    """What to look at.

    Attributes:
        dataset: Predict memory and time of each stage for this dataset: number or folder name; None for the machine
            alone.
        configurations: Configurations to predict; None for all of the plans that need no other one's result.
        plans_name: Plans identifier.
        trainer: Name of the trainer whose epochs are predicted.
        device: Where networks shall compute; by default the first of cuda, mps, cpu that there is.
        time_limit_s: Time for measurements, in all.
        progress: Show progress.
    """

    dataset: int | str | None = None
    configurations: tuple[str, ...] | None = None
    plans_name: str = "nnUNetPlans"
    trainer: str = "nnUNetTrainer"
    device: str | None = None
    time_limit_s: float = DEFAULT_TIME_LIMIT_S
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes:
        findings: The result of each check, by group.
        prediction: Memory and time of each stage, if a dataset was asked for.
    """

    findings: tuple[Finding, ...]
    prediction: DatasetPrediction | None = None

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What will fail, or be very slow."""
        return tuple(f for f in self.findings if f.status == "problem")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What works, but could be better."""
        return tuple(f for f in self.findings if f.status == "note")

    @property
    def healthy(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The JSON object; keys are part of the interface."""
        return {
            "format": FORMAT,
            "healthy": self.healthy,
            "findings": [f.to_json() for f in self.findings],
            "dataset": None if self.prediction is None else self.prediction.to_json(),
        }


def diagnose(request: DoctorRequest, workspace: Workspace | None = None) -> Diagnosis:
    """Look at this machine.

    Args:
        request: What to look at.
        workspace: The three folders; those of the environment by default.

    Raises:
        NnunetError: If a dataset was asked for and does not exist, or its files are damaged.
    """
    findings: list[Finding] = []
    if workspace is None:
        settings, complaint = _settings()
        findings += complaint
    else:
        settings = workspace.settings
    torch = TorchBuild.of_this_process()
    system = System(settings=settings)
    findings += check(system, torch)
    prediction = None
    if request.dataset is not None and not (findings and findings[0].key == ENVIRONMENT):
        from nnunet_pt.doctor.dataset import predict_dataset

        prediction = predict_dataset(request, Workspace(settings), system)
        findings += prediction.findings
    return Diagnosis(findings=tuple(findings), prediction=prediction)


def check(system: System, torch: TorchBuild) -> Iterable[Finding]:
    """All checks of the machine, in the order in which they are shown."""
    yield from check_folders(system)
    yield from check_machine(system, num_gpus=len(torch.gpus))
    yield from check_gpus(system, torch)
    yield from check_software(system, torch)


def _settings() -> tuple[Settings, list[Finding]]:
    """The environment; if a variable has an impossible value, nothing of it, and what is wrong."""
    try:
        return Settings.from_environment(), []
    except SettingsError as error:
        finding = Finding(
            key=ENVIRONMENT,
            title="environment",
            status="problem",
            found=f"{error.problem} found {error.found}, expected {error.expected}",
            why="every command would stop there; the checks below are made without any variable",
            remedy=error.remedy or "correct the variable",
        )
        return Settings(), [finding]
