"""Fingerprint, plans and preprocessing of datasets in one go, each step for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import NnunetError, UsageError
from nnunet_pt.core.files import json_text
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.workers import CaseFailure, Executor
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest, FingerprintResult, extract_fingerprint
from nnunet_pt.planning.planner import PlanRequest, plan_experiment
from nnunet_pt.planning.presets import PLANNERS
from nnunet_pt.planning.summary import plan_summary
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.pipeline import (
    DEFAULT_CONFIGURATIONS,
    PreprocessRequest,
    PreprocessResult,
    preprocess_dataset,
)

DEFAULT_PLANS = "nnUNetPlans"
RESIDUAL_HINT = (
    "Hint: the planners nnUNetPlannerResEncM, ...L and ...XL plan networks with a residual encoder for GPUs with about "
    "8, 24 and 40 GB, which usually segment better."
)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAndPreprocessRequest:
    """What to prepare and how.

    Attributes:
        datasets: Numbers or names.
        extractor: Name of the fingerprint extractor.
        planner: Name of the planner.
        gpu_memory_target_gb: GPU memory to plan for; the planner's own by default.
        preprocessor_name: Name of the preprocessor.
        overwrite_target_spacing: See :class:`~nnunet_pt.planning.planner.PlanRequest`.
        plans_name: Plans identifier instead of the planner's.
        preprocess: Preprocess, too.
        configurations: Which configurations to preprocess; those that the plans do not have are skipped.
        num_fingerprint_processes: Worker processes that measure; None for the default, at most 8.
        num_processes: Worker processes that preprocess: one number, one for each configuration, or None for the
            defaults.
        verify_integrity: Check the datasets first.
        clean: Start over: measure again, and delete preprocessed cases.
        max_ram_gb: Memory budget of all workers together.
        progress: Show progress.
        on_failure: "stop" at the first failing case, or "continue" with the others.
        executor: Where the cases are worked on instead of in processes of this machine.

    Raises:
        UsageError: If there are no datasets, or the numbers of processes do not fit the configurations.
    """

    datasets: tuple[int | str, ...]
    extractor: str = "DatasetFingerprintExtractor"
    planner: str = "ExperimentPlanner"
    gpu_memory_target_gb: float | None = None
    preprocessor_name: str = "DefaultPreprocessor"
    overwrite_target_spacing: tuple[float, ...] | None = None
    plans_name: str | None = None
    preprocess: bool = True
    configurations: tuple[str, ...] = DEFAULT_CONFIGURATIONS
    num_fingerprint_processes: int | None = None
    num_processes: int | tuple[int, ...] | None = None
    verify_integrity: bool = False
    clean: bool = False
    max_ram_gb: float | None = None
    progress: bool = True
    on_failure: Literal["stop", "continue"] = "stop"
    executor: Executor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.datasets:
            raise UsageError("There are no datasets to prepare.", expected="numbers or names of datasets")
        if self.preprocess:
            self.preprocess_request(self.datasets[0], self.plans_name or "").processes_for(0)

    def fingerprint_request(self, dataset: int | str) -> FingerprintRequest:
        """How a dataset is measured."""
        return FingerprintRequest(
            dataset=dataset,
            num_processes=self.num_fingerprint_processes,
            verify_integrity=self.verify_integrity,
            clean=self.clean,
            max_ram_gb=self.max_ram_gb,
            progress=self.progress,
            on_failure=self.on_failure,
            extractor=self.extractor,
            executor=self.executor,
        )

    def plan_request(self, dataset: int | str) -> PlanRequest:
        """How a dataset is planned."""
        return PlanRequest(
            dataset=dataset,
            planner=self.planner,
            gpu_memory_target_gb=self.gpu_memory_target_gb,
            preprocessor_name=self.preprocessor_name,
            overwrite_target_spacing=self.overwrite_target_spacing,
            plans_name=self.plans_name,
        )

    def preprocess_request(self, dataset: int | str, plans_name: str) -> PreprocessRequest:
        """How a dataset is preprocessed."""
        return PreprocessRequest(
            dataset=dataset,
            plans_name=plans_name,
            configurations=self.configurations,
            num_processes=self.num_processes,
            clean=self.clean,
            max_ram_gb=self.max_ram_gb,
            progress=self.progress,
            on_failure=self.on_failure,
            executor=self.executor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDataset:
    """Plans that were made.

    Attributes:
        plans: The plans.
        path: Their file.
    """

    plans: Plans
    path: Path

    def summary(self) -> str:
        """Which configurations, and where they are written."""
        return f"{self.plans.dataset_name}: plans for {', '.join(self.plans.configuration_names)} -> {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAndPreprocessResult:
    """What was done.

    Attributes:
        fingerprints: Of each dataset.
        planned: Of each dataset; none if a case could not be measured.
        preprocessed: Of each dataset; none if that was not wanted, or there are no plans.
    """

    fingerprints: tuple[FingerprintResult, ...]
    planned: tuple[PlannedDataset, ...] = ()
    preprocessed: tuple[PreprocessResult, ...] = ()

    @property
    def failures(self) -> tuple[CaseFailure, ...]:
        """All failed cases."""
        measured = tuple(failure for result in self.fingerprints for failure in result.failures)
        return (*measured, *(failure for result in self.preprocessed for failure in result.failures))

    def summaries(self) -> tuple[str, ...]:
        """What was written and where, one text for each dataset and step."""
        first = [*(r.summary() for r in self.fingerprints), *(p.summary() for p in self.planned)]
        return (*first, *(r.summary() for r in self.preprocessed))


def plan_and_preprocess(request: PlanAndPreprocessRequest, workspace: Workspace) -> PlanAndPreprocessResult:
    """Measure, plan and preprocess datasets, each step for all of them; what is still valid is kept.

    Raises:
        UnknownNameError: If there is no such planner, extractor, preprocessor or configuration.
        NnunetError: For missing or contradictory files; with ``on_failure="stop"`` for failing cases too.
    """
    PLANNERS[request.planner]  # complain now, not after the first steps
    for dataset in request.datasets:
        resolve_dataset_name(dataset, workspace)
    measured = tuple(extract_fingerprint(request.fingerprint_request(d), workspace) for d in request.datasets)
    if any(result.failures for result in measured):  # planning needs all cases
        return PlanAndPreprocessResult(fingerprints=measured)
    planned = plan_and_show([request.plan_request(d) for d in request.datasets], workspace)
    if not request.preprocess:
        return PlanAndPreprocessResult(fingerprints=measured, planned=planned)
    name = planned[-1].plans.plans_name  # as in nnU-Net, the last one is followed for all
    done = tuple(preprocess_dataset(request.preprocess_request(d, name), workspace) for d in request.datasets)
    return PlanAndPreprocessResult(fingerprints=measured, planned=planned, preprocessed=done)


def plan_and_show(requests: Sequence[PlanRequest], workspace: Workspace) -> tuple[PlannedDataset, ...]:
    """Make plans and show them as a table.

    Raises:
        NnunetError: As :func:`~nnunet_pt.planning.planner.plan_experiment`.
    """
    made = []
    for request in requests:
        plans = plan_experiment(request, workspace)
        path = workspace.preprocessed / plans.dataset_name / f"{plans.plans_name}.json"
        made.append(PlannedDataset(plans=plans, path=path))
        _log.info(plan_summary(plans))
        _log.debug(json_text(plans.to_json()))
        _warn_of_tiny_images(plans)
    if any(planned.plans.plans_name == DEFAULT_PLANS for planned in made):
        _log.info(RESIDUAL_HINT)
    return tuple(made)


def _warn_of_tiny_images(plans: Plans) -> None:
    """Say which configurations cannot be trained, before their data are made; nnU-Net plans them without a word."""
    tiny = [name for name in plans.configurations if _num_stages(plans, name) == 1]
    if tiny:
        _log.warning(
            "%s of %s cannot be trained: the images have too few voxels for a U-Net along the axes with the finest "
            "spacing, where it needs 8, or 12 if it is one axis alone. Plan for a finer spacing "
            "(-overwrite_target_spacing, for 3D), or use images of a larger region.",
            ", ".join(tiny),
            plans.dataset_name,
        )


def _num_stages(plans: Plans, configuration: str) -> Any:
    with contextlib.suppress(NnunetError):  # a configuration somebody has added and damaged
        return plans.configuration(configuration).architecture.arch_kwargs.get("n_stages")
    return None
