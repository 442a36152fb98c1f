"""Memory and time of the stages of a small dataset, measured in this process; and what becomes of measurements."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from nnunet_pt.core.console import Progress
from nnunet_pt.core.errors import DatasetError, UnknownNameError
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.doctor import dataset as prediction
from nnunet_pt.doctor import network_jobs, training_job
from nnunet_pt.doctor.costs import CaseCost, Interim, PredictionCost, TrainingCost, TrainingJob
from nnunet_pt.doctor.diagnosis import DoctorRequest
from nnunet_pt.doctor.extrapolation import Workload, passes, prediction_memory
from nnunet_pt.doctor.measuring import Measurements, Outcome
from nnunet_pt.doctor.sizes import CaseSize, DatasetSizes, dataset_sizes, full_voxels
from nnunet_pt.doctor.stages import DatasetPrediction, Stage
from nnunet_pt.doctor.system import System

GB = 1 << 30
NETWORK = {
    "n_stages": 2,
    "features_per_stage": [4, 6],
    "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


@pytest.fixture
def planned(three: Any) -> Any:
    """Three cases, and plans with tiny networks."""
    for entry in three.plans["configurations"].values():
        axes = len(entry["patch_size"])
        arguments = {
            **NETWORK,
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "kernel_sizes": [[3] * axes] * 2,
            "strides": [[1] * axes, [2] * axes],
        }
        entry["architecture"] = {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    three.plan()
    return three


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process, which takes no time to start."""

    def run(_self: Measurements, function: Any, argument: Any, _most_s: float) -> Outcome[Any]:
        return Outcome(value=function(argument))

    monkeypatch.setattr(Measurements, "_measured", run)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")  # threads that wait for each other take long on busy machines
    monkeypatch.setattr(training_job, "SETTLED_S", 0.05)
    monkeypatch.setattr(network_jobs, "MOST_STEPS", 2)


def predicted(dataset: Any, **options: Any) -> DatasetPrediction:
    settings = replace(dataset.workspace.settings, num_augmentation_processes=1, num_processes=2)
    request = DoctorRequest(dataset=dataset.name, device="cpu", progress=False, time_limit_s=60.0, **options)
    return prediction.predict_dataset(request, Workspace(settings), System(settings=settings))


@pytest.mark.usefixtures("_here")
def test_every_stage_of_a_planned_dataset_gets_figures(planned: Any) -> None:
    before = planned.contents(planned.root)
    found = predicted(planned)
    assert [(s.name, s.configuration) for s in found.stages] == [
        ("fingerprint", None),
        *((stage, c) for stage in ("preprocessing", "training", "prediction") for c in ("2d", "3d_fullres")),
    ]
    assert (found.dataset, found.plans_name, found.cases) == (planned.name, "nnUNetPlans", 3)
    for stage in found.stages:
        assert stage.comment == "" or stage.name == "training"
        assert stage.memory_bytes is not None
        assert 50 << 20 < stage.memory_bytes < 8 * GB
        assert stage.unit_seconds is not None
        assert stage.seconds is not None
        assert stage.seconds >= stage.unit_seconds > 0
        assert stage.gpu_memory_bytes is None
        assert not stage.done
    training = next(s for s in found.stages if s.name == "training")
    assert training.units == 1000
    assert training.seconds == pytest.approx(1000 * training.unit_seconds)
    assert training.disk_bytes is not None
    assert planned.contents(planned.root) == before


@pytest.mark.usefixtures("_here")
def test_preprocessed_cases_are_used_if_the_raw_ones_are_gone(planned: Any) -> None:
    planned.fingerprint()
    planned.preprocess()
    workspace = replace(planned.workspace.settings, raw=None, num_augmentation_processes=0)
    request = DoctorRequest(
        dataset=planned.name, configurations=("3d_fullres",), device="cpu", progress=False, time_limit_s=60.0
    )
    found = prediction.predict_dataset(request, Workspace(workspace), System(settings=workspace))
    assert [s.seconds is not None for s in found.stages] == [False, False, True, True]
    assert found.stages[0].comment == "there are no raw images to read"
    assert [s.done for s in found.stages] == [True, True, False, False]


@pytest.mark.usefixtures("_here")
def test_without_plans_only_the_fingerprint_can_be_predicted(planned: Any) -> None:
    (planned.preprocessed / "nnUNetPlans.json").unlink()
    found = predicted(planned)
    assert [s.name for s in found.stages] == ["fingerprint"]
    assert found.plans_name is None
    (note,) = [f for f in found.findings if f.key == "dataset.plans"]
    assert note.status == "note"
    assert "nnUNetv2_plan_experiment -d 7" in note.remedy


def test_names_that_do_not_exist_are_errors(planned: Any) -> None:
    with pytest.raises(UnknownNameError, match="nnUNetPlans"):
        predicted(planned, plans_name="nnUNetPlanz")
    with pytest.raises(UnknownNameError, match="3d_fulres"):
        predicted(planned, configurations=("3d_fulres",))
    with pytest.raises(UnknownNameError, match="nnUNetTrainer"):
        predicted(planned, trainer="nnUNetTrainr")


def test_a_dataset_about_which_nothing_is_known(planned: Any) -> None:
    workspace = Workspace(replace(planned.workspace.settings, raw=None))
    with pytest.raises(DatasetError, match="no fingerprint"):
        dataset_sizes(planned.name, workspace)


def sized(*shapes: tuple[int, int, int]) -> DatasetSizes:
    sizes = tuple(CaseSize(case=None, full_shape=s, shape=s, spacing=(1.0, 1.0, 1.0)) for s in shapes)
    return DatasetSizes(description=Any, num_cases=len(sizes), sizes=sizes, reader_name=None)  # type: ignore[arg-type]


def test_what_one_case_took_is_extended_to_all() -> None:
    sizes = sized((10, 10, 10), (10, 10, 20), (10, 10, 30), (10, 10, 20))
    work = Workload(sizes=sizes, measured=sizes.sizes[1], measure=full_voxels, workers=2, cpus=4)
    cost = CaseCost(start_s=1.0, seconds=2.0, base_bytes=100, peak_bytes=300, shared_bytes=30, job_s=5.0)
    stage = work.extended(Stage(name="fingerprint"), Outcome(value=cost, seconds=5.5))
    assert stage.unit_seconds == pytest.approx(2.0 * 4 / 4 / 2)  # eight thousand voxels, two processes
    assert stage.seconds == pytest.approx(1.0 + 2 * 0.5 + 2.0 * 4 / 2)  # two processes start one after the other
    assert stage.largest_bytes == 100 + 300
    assert stage.memory_bytes == 30 + 70 + (70 + 300) + (70 + 200)


def test_a_stage_takes_as_long_as_its_largest_case_at_least() -> None:
    sizes = sized((1, 1, 1), (1, 1, 1), (10, 10, 10))
    work = Workload(sizes=sizes, measured=sizes.sizes[0], measure=full_voxels, workers=8, cpus=8)
    cost = CaseCost(start_s=0.0, seconds=1.0, base_bytes=0, peak_bytes=1)
    assert work.extended(Stage(name="fingerprint"), Outcome(value=cost)).seconds == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("shape", "patch", "flips", "expected"),
    [
        ((40, 56, 40), (40, 56, 40), 8, 8),
        ((60, 56, 40), (40, 56, 40), 8, 16),
        ((20, 20, 20), (40, 56, 40), 1, 1),
        ((7, 56, 40), (56, 40), 4, 28),
        ((7, 84, 40), (56, 40), 1, 14),
    ],
)
def test_passes_through_the_network(shape: tuple[int, ...], patch: tuple[int, ...], flips: int, expected: int) -> None:
    assert passes(shape, patch, flips) == expected


def test_many_logits_are_kept_in_half_precision() -> None:
    cost = PredictionCost(pass_s=1.0, flips=8, memory_bytes=0, gpu_bytes=None, export_s=None, outputs=4)
    assert prediction_memory(cost, (10, 10, 10), 0, 0) == 2 * 4 * 4 * 1000
    assert prediction_memory(cost, (1000, 1000, 100), 0, 0) == 2 * 2 * 4 * 10**8


def test_a_dataset_of_thousands_is_sampled(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_pt.doctor.sizes.MOST_HEADERS", 2)
    sizes = dataset_sizes(planned.name, planned.workspace)
    assert sizes.num_cases == 3
    assert len(sizes.sizes) == 2
    assert sizes.total(lambda _: 1.0) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("steps", "at_least", "epoch_s", "comment"),
    [(0, True, 30.0 * 250, "did not end"), (2, False, 4.0 * 250 + 1.0 * 50, "scaled up")],
)
def test_a_training_that_is_cut_short_tells_what_it_knows(
    planned: Any, monkeypatch: pytest.MonkeyPatch, steps: int, at_least: bool, epoch_s: float, comment: str
) -> None:
    known = TrainingCost(step_s=4.0, validation_s=1.0, steps=steps, epochs=10, iterations=250, validation_iterations=50)

    def run(_self: Measurements, _function: Any, argument: Any, _most_s: float) -> Outcome[Any]:
        if isinstance(argument, TrainingJob) and "training" in argument.scratch.name:
            Interim(cost=known, begun=100.0).save(argument.scratch)
        return Outcome(reason="did not end within 9 s", out_of_time=True, ended=130.0)

    monkeypatch.setattr(Measurements, "_measured", run)
    planned.fingerprint()
    planned.preprocess()
    found = predicted(planned, configurations=("3d_fullres",))
    training = next(s for s in found.stages if s.name == "training")
    assert training.at_least is at_least
    assert training.unit_seconds == pytest.approx(epoch_s)
    assert training.seconds == pytest.approx(10 * epoch_s)
    assert training.comment.startswith(comment)
    assert [s.seconds for s in found.stages if s.name != "training"] == [None] * 3


# ---------------------------------------------------------------------- functions that run in real workers


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def too_large(_argument: float) -> None:
    raise MemoryError("no room for 12 bytes")


def refuses(_argument: float) -> None:
    raise DatasetError("It is broken.", found="nothing", remedy="mend it")


def measured(function: Any, limit_s: float, weights: list[float], argument: float = 0.0) -> Outcome[Any]:
    with Progress(1, "", disable=True) as bar:
        return Measurements(limit_s, weights, 1, bar).run("it", function, lambda _: argument)


def test_a_measurement_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()
    outcome = measured(time.sleep, 2.0, [1.0], 60.0)
    assert outcome.out_of_time
    assert outcome.value is None
    assert "did not end within 2 s" in outcome.reason
    assert time.monotonic() - started < 20


def test_no_measurement_begins_without_time() -> None:
    outcome = measured(time.sleep, 0.5, [1.0])
    assert outcome.out_of_time
    assert outcome.reason == "no time was left for it"


def test_later_measurements_keep_most_of_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def run(_self: Measurements, _function: Any, argument: float, most_s: float) -> Outcome[Any]:
        limits.extend((argument, most_s))
        return Outcome()

    monkeypatch.setattr(Measurements, "_measured", run)
    with Progress(2, "", disable=True) as bar:
        measurements = Measurements(100.0, [1.0, 3.0], 1, bar)
        measurements.run("a", sleep, lambda seconds: seconds)
        measurements.run("b", sleep, lambda seconds: seconds)
    assert limits == pytest.approx([25 - 4, 100 * (1 - 0.8 * 0.75), 100 - 4, 100], abs=0.5)


@pytest.mark.parametrize(
    ("error", "reason", "of_memory"),
    [
        (MemoryError("no room for 12 bytes"), "no room for 12 bytes", True),
        (DatasetError("It is broken.", found="nothing", remedy="mend it"), "It is broken.; nothing; mend it", False),
        (ValueError("a\nb"), "ValueError: a", False),
    ],
)
def test_failures_are_results(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, of_memory: bool) -> None:
    from concurrent.futures import Future

    class Executor:
        def __init__(self, *_: object) -> None: ...

        def submit(self, *_: object) -> Future[None]:
            future: Future[None] = Future()
            future.set_exception(error)
            return future

        def close(self) -> None: ...

    monkeypatch.setattr("nnunet_pt.doctor.measuring.LocalExecutor", Executor)
    outcome = measured(sleep, 60.0, [1.0])
    assert (outcome.reason, outcome.out_of_memory, outcome.value) == (reason, of_memory, None)


def test_settings_are_not_needed_for_sizes() -> None:
    with pytest.raises(DatasetError):
        dataset_sizes("Dataset999_None", Workspace(Settings()))
