"""What each stage of the work on a dataset takes on this machine, from a measurement of each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.core.console import Progress
from nnunet_pt.core.errors import UnknownNameError
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.doctor.dataset_stages import DatasetStages
from nnunet_pt.doctor.findings import Finding
from nnunet_pt.doctor.measuring import Measurements
from nnunet_pt.doctor.sizes import dataset_sizes
from nnunet_pt.doctor.stages import DatasetPrediction
from nnunet_pt.doctor.system import System
from nnunet_pt.doctor.too_much import too_much
from nnunet_pt.networks.device import choose_device
from nnunet_pt.plans.configuration import Configuration
from nnunet_pt.plans.plans import Plans
from nnunet_pt.training.recipe_lookup import find_recipe

if TYPE_CHECKING:
    from nnunet_pt.doctor.diagnosis import DoctorRequest

WEIGHTS = {"fingerprint": 1.0, "preprocessing": 1.0, "training": 4.0, "prediction": 1.5}


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
        dataset = DatasetStages(
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
