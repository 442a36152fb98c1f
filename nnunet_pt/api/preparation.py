"""What a training needs of its dataset, as far as it is missing: the check, fingerprint, plans, preprocessed cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import PlansError
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.cases import DATASET_PREFIX, training_cases
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.integrity import REPORT_NAME, dataset_state, has_passed, verify_dataset_integrity
from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest, extract_fingerprint
from nnunet_pt.planning.plan_and_preprocess import plan_and_show
from nnunet_pt.planning.planner import PlanRequest
from nnunet_pt.planning.presets import planners_of_plans
from nnunet_pt.plans.plans import NOT_PLANS, Plans
from nnunet_pt.preprocessing.manifest import Manifest
from nnunet_pt.preprocessing.pipeline import PreprocessRequest, preprocess_dataset

_CHECKING_PROCESSES = 8
_DATA_OF = {"3d_cascade_fullres": "3d_fullres"}
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """A dataset to be made ready.

    Attributes:
        workspace: Where the three folders are.
        dataset: Folder name of the dataset.
        configuration: What shall be trained.
        plans_name: With which plans.
        chosen: Whether somebody chose these plans.
        verify: Check the raw dataset, unless the files have been checked as they are now.
        num_workers: Worker processes of each step; None for the defaults.
        max_ram_gb: Memory budget of all of them together.
        progress: Show progress.
    """

    workspace: Workspace
    dataset: str
    configuration: str
    plans_name: str
    chosen: bool = True
    verify: bool = True
    num_workers: int | None = None
    max_ram_gb: float | None = None
    progress: bool = True

    @property
    def folder(self) -> Path:
        """The preprocessed dataset."""
        return self.workspace.preprocessed / self.dataset

    @property
    def plans_file(self) -> Path:
        """The plans."""
        return self.folder / f"{self.plans_name}.json"

    @property
    def has_raw(self) -> bool:
        """Whether there is a raw dataset; preprocessed ones can be trained without it."""
        raw = self.workspace.settings.raw
        return raw is not None and (raw / self.dataset / DATASET_FILE).is_file()

    def check(self) -> None:
        """Check the raw dataset.

        Raises:
            DatasetError: With everything that is wrong.
        """
        if self.verify and self.has_raw and not self._is_checked():
            number = self.num_workers
            verify_dataset_integrity(
                self.workspace.raw / self.dataset,
                num_workers=default_num_processes(_CHECKING_PROCESSES) if number is None else number,
                max_ram_gb=self.max_ram_gb,
                progress=self.progress,
                report_path=self.folder / REPORT_NAME,
            )

    def plans(self) -> Plans:
        """The plans, made if they are missing and are those of a planner.

        Raises:
            PlansError: If there are no such plans, and no planner makes them.
            UnknownNameError: If the plans do not have the configuration.
            NnunetError: As planning does.
        """
        if not self.plans_file.is_file():
            self._plan()
        plans = Plans.load(self.plans_file)
        plans.configuration(self.configuration)
        return plans

    def data(self, plans: Plans) -> None:
        """Preprocess what is missing of the configuration, and of those that follow it in a cascade.

        The latter because the first stage of a cascade ends with its predictions on the grid of the second.

        Raises:
            NnunetError: As preprocessing does.
        """
        following = plans.configuration(self.configuration).next_stage
        wanted = dict.fromkeys(_DATA_OF.get(name, name) for name in (self.configuration, *following))
        missing = tuple(name for name in wanted if not self._is_complete(plans, name))
        if not missing:
            return
        request = PreprocessRequest(
            dataset=self.dataset,
            plans_name=self.plans_name,
            configurations=missing,
            num_processes=self.num_workers,
            max_ram_gb=self.max_ram_gb,
            progress=self.progress,
            any_layout=True,  # other trainings may be reading what other plans have made
        )
        _log.info(preprocess_dataset(request, self.workspace).summary())

    def _is_complete(self, plans: Plans, configuration: str) -> bool:
        """Whether there are data that preprocessing must leave alone; what it made itself it knows better."""
        folder = self.folder / plans.configuration(configuration).data_identifier
        there = {path.stem for path in folder.glob("*.pkl")} if folder.is_dir() else set()
        if there and not self.has_raw:
            _log.info("The raw dataset is not there; the %d preprocessed cases in %s are used.", len(there), folder)
            return True
        if there and not Manifest(folder).records and there >= self._raw_cases():
            _log.info("%s was not made by nnunet_pt; it has all %d cases, which are used.", folder, len(there))
            return True
        return False

    def _raw_cases(self) -> set[str]:
        raw = self.workspace.raw / self.dataset
        return {case.identifier for case in training_cases(raw, DatasetDescription.load(raw / DATASET_FILE))}

    def _is_checked(self) -> bool:
        return has_passed(self.folder / REPORT_NAME, dataset_state(self.workspace.raw / self.dataset))

    def _plan(self) -> None:
        planners = planners_of_plans()
        there = sorted(p.stem for p in self.folder.glob("*lans*.json") if p.stem not in NOT_PLANS)
        if self.plans_name not in planners:
            raise PlansError(
                f"There is no plans file {self.plans_file}.",
                found=f"these plans: {', '.join(there)}" if there else "no plans at all",
                expected=f"plans that are there, or one of those that are made without being asked: "
                f"{', '.join(planners)}",
                remedy="choose another plans_identifier, or make these plans with  nnUNetv2_plan_experiment "
                f"-d {number_of(self.dataset)} -overwrite_plans_name {self.plans_name}",
            )
        if there and not self.chosen:
            _log.warning(
                "%s has the plans %s; %s are made and used, because no others were chosen.",
                self.dataset,
                ", ".join(there),
                self.plans_name,
            )
        measuring = FingerprintRequest(
            dataset=self.dataset,
            num_processes=self.num_workers,
            max_ram_gb=self.max_ram_gb,
            progress=self.progress,
        )
        _log.info(extract_fingerprint(measuring, self.workspace).summary())
        plan_and_show([PlanRequest(dataset=self.dataset, planner=planners[self.plans_name])], self.workspace)


def number_of(dataset: str) -> int | str:
    """How a dataset is named in a command: by the number in the name of its folder, if there is one."""
    digits = dataset[len(DATASET_PREFIX) :][:3]
    return int(digits) if digits.isdecimal() else dataset
