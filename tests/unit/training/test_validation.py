"""The final validation: files, scores, cascades, several processes, failures and interruptions."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from nnunet_pt.core.errors import StorageError, TrainingError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.evaluation.summary import Summary
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.store import load_case
from nnunet_pt.training import validation
from nnunet_pt.training.validation import ValidationRequest, final_validation

CPU = torch.device("cpu")
CASES = ("a1", "b2", "c3")


class Threshold(nn.Module):
    """Label 1 where the image is above zero, label 2 where it is far above; knows all answers."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.deep_supervision = True
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        assert x.shape[1] == self.channels
        self.seen.append(x)
        first = x[:, :1]
        scores = torch.cat([-first, first, 3 * first - 2], 1)
        return [scores, scores] if self.deep_supervision else scores


@pytest.fixture
def request_for(three: Any) -> Callable[..., ValidationRequest]:
    """A function that makes a request for the small dataset, which it preprocesses."""

    def make(configuration: str = "3d_fullres", **changes: Any) -> ValidationRequest:
        three.preprocess(configuration)
        plans = Plans.from_json(three.plans, "plans")
        request = ValidationRequest(
            plans=plans,
            configuration=plans.configuration(configuration),
            labels=Labels(labels=three.description["labels"]),
            file_ending=".nii.gz",
            preprocessed=three.preprocessed,
            cases=CASES,
            fold_folder=three.root / "results" / "model" / "fold_0",
        )
        return replace(request, **changes)

    return make


def validate(request: ValidationRequest, network: nn.Module | None = None, **options: Any) -> Summary | None:
    return final_validation(network or Threshold(), request, device=CPU, progress=False, **options)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def no_threads_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("nnunet_pt-")]


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("num_processes", [1, 3])
def test_segmentations_and_summary(
    request_for: Callable[..., ValidationRequest], configuration: str, num_processes: int
) -> None:
    request = request_for(configuration, mirror_axes=(0, 1), num_processes=num_processes)
    network = Threshold()
    made = validate(request, network)
    assert made is not None
    assert names(request.output) == {"a1.nii.gz", "b2.nii.gz", "c3.nii.gz", "summary.json"}
    content = json.loads((request.output / "summary.json").read_text())
    assert content["foreground_mean"]["Dice"] == made.dice
    assert len(content["metric_per_case"]) == 3
    assert content["metric_per_case"][0]["prediction_file"] == str(request.output / "a1.nii.gz")
    reference = sitk.ReadImage(str(request.preprocessed / "gt_segmentations" / "a1.nii.gz"))
    written = sitk.ReadImage(str(request.output / "a1.nii.gz"))
    assert written.GetSize() == reference.GetSize()
    assert set(np.unique(sitk.GetArrayFromImage(written))) == {0, 1, 2}
    assert network.training
    assert network.deep_supervision
    assert no_threads_left()


def test_probabilities_on_request(request_for: Callable[..., ValidationRequest]) -> None:
    request = request_for(save_probabilities=True)
    validate(request)
    assert {"a1.npz", "a1.pkl", "a1.nii.gz"} < names(request.output)
    properties = pickle.loads((request.output / "a1.pkl").read_bytes())
    with np.load(request.output / "a1.npz") as archive:
        assert archive["probabilities"].shape == (3, *properties["shape_before_cropping"])


def test_perfect_predictions_score_one(request_for: Callable[..., ValidationRequest]) -> None:
    request = request_for()
    validate(request)
    for case in CASES:  # what was predicted becomes the annotation
        (request.preprocessed / "gt_segmentations" / f"{case}.nii.gz").write_bytes(
            request.prediction(case).read_bytes()
        )
    made = validate(request)
    assert made is not None
    assert made.dice == 1


@pytest.mark.parametrize("world_size", [2, 4])
def test_several_processes_share_the_cases(request_for: Callable[..., ValidationRequest], world_size: int) -> None:
    request = request_for()
    alone = validate(request)
    expected = {case: request.prediction(case).read_bytes() for case in CASES}
    for case in CASES:
        request.prediction(case).unlink()
    barrier = threading.Barrier(world_size, timeout=20)
    results: dict[int, Any] = {}

    def run(rank: int) -> None:
        results[rank] = validate(request, rank=rank, world_size=world_size, barrier=lambda: barrier.wait() and None)

    others = [threading.Thread(target=run, args=(rank,)) for rank in range(1, world_size)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    assert results.pop(0) == alone
    assert set(results.values()) == {None}
    assert {case: request.prediction(case).read_bytes() for case in CASES} == expected


def test_the_first_process_notices_cases_that_another_one_lost(
    request_for: Callable[..., ValidationRequest],
) -> None:
    with pytest.raises(TrainingError, match=r"case b2: not predicted by the process") as caught:
        validate(request_for(), rank=0, world_size=2, barrier=lambda: None)
    assert "1 of 3" in str(caught.value)


def test_the_barrier_is_passed_after_an_error_but_not_after_an_interruption(
    request_for: Callable[..., ValidationRequest],
) -> None:
    request, passed = request_for(), []
    (request.preprocessed / "nnUNetPlans_3d_fullres" / "a1.b2nd").unlink()

    def barrier() -> None:
        passed.append(True)

    with pytest.raises(StorageError, match="a1"):
        validate(request, rank=0, world_size=2, barrier=barrier)
    assert passed == [True]

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(request, rank=1, world_size=2, barrier=barrier, on_step=interrupt)
    assert passed == [True]


def test_a_damaged_case_is_named_and_the_others_are_predicted(
    request_for: Callable[..., ValidationRequest],
) -> None:
    request = request_for(save_probabilities=True)
    validate(request)
    times = {case: request.prediction(case).stat().st_mtime_ns for case in CASES}
    (request.preprocessed / "nnUNetPlans_3d_fullres" / "b2.b2nd").write_bytes(b"damaged")
    with pytest.raises(TrainingError) as caught:
        validate(request)
    text = str(caught.value)
    assert "1 of 3 cases" in text
    assert "case b2" in text
    assert "b2.b2nd is damaged" in text
    assert "--verify" in text
    assert "--val" in text
    # No result that would pass for that of all cases, and nothing of an earlier run in place of the failed case
    kept = {"a1.nii.gz", "a1.npz", "a1.pkl", "c3.nii.gz", "c3.npz", "c3.pkl"}
    assert names(request.output) == {*kept, ".in_progress_0.jsonl"}
    assert all(request.prediction(case).stat().st_mtime_ns > times[case] for case in ("a1", "c3"))
    assert no_threads_left()


def test_errors_of_network_and_writer_name_their_cases(
    request_for: Callable[..., ValidationRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Picky(Threshold):
        def forward(self, x: Tensor) -> Tensor | list[Tensor]:
            made = super().forward(x)
            if len(self.seen) == 1:
                raise RuntimeError("device-side assert")
            return made

    original = validation.export_prediction

    def fail(*args: Any, **kwargs: Any) -> None:
        if kwargs["output"].name == "c3":
            raise StorageError("the disk is full")
        original(*args, **kwargs)

    monkeypatch.setattr(validation, "export_prediction", fail)
    with pytest.raises(TrainingError) as caught:
        validate(request_for(), Picky())
    assert "2 of 3 cases" in str(caught.value)
    assert "case a1: RuntimeError: device-side assert" in str(caught.value)
    assert "case c3: the disk is full" in str(caught.value)


def test_not_finite_outputs_name_the_case(request_for: Callable[..., ValidationRequest]) -> None:
    class Exploded(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    with pytest.raises(TrainingError, match="case a1: The network's output is not finite"):
        validate(request_for(), Exploded())


def test_an_interruption_ends_reading_and_writing(request_for: Callable[..., ValidationRequest]) -> None:
    request, steps = request_for(), []

    def interrupt() -> None:
        steps.append(True)
        if len(steps) == 2:  # in the second case, while the first one is written and the third one read
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(request, on_step=interrupt)
    assert no_threads_left()
    assert not [n for n in names(request.output) if n.startswith(".partial") or n == "summary.json"]


def test_an_earlier_summary_does_not_outlive_a_failure(request_for: Callable[..., ValidationRequest]) -> None:
    request = request_for()
    validate(request)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(request, on_step=interrupt)
    assert "summary.json" not in names(request.output)


def test_missing_annotations_are_noticed_before_anything_is_predicted(
    request_for: Callable[..., ValidationRequest],
) -> None:
    request, network = request_for(), Threshold()
    for case in ("a1", "c3"):
        (request.preprocessed / "gt_segmentations" / f"{case}.nii.gz").unlink()
    with pytest.raises(TrainingError, match="no file for a1, c3") as caught:
        validate(request, network)
    assert "nnUNetv2_preprocess" in str(caught.value)
    assert not network.seen
    with pytest.raises(TrainingError, match="no validation cases"):
        validate(replace(request, cases=()))


def cascade(three: Any) -> tuple[Plans, Labels]:
    """Plans with a coarse first stage and the full resolution after it."""
    fine = three.plans["configurations"]["3d_fullres"]
    three.plans["configurations"]["3d_lowres"] = {
        **fine, "data_identifier": "nnUNetPlans_3d_lowres", "spacing": [2.0, 2.0, 2.0],
        "next_stage": "3d_cascade_fullres",
    }  # fmt: skip
    three.plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    three.plan()
    three.preprocess("3d_lowres", "3d_fullres")
    return Plans.from_json(three.plans, "plans"), Labels(labels=three.description["labels"])


def cascade_request(three: Any, name: str, **changes: Any) -> ValidationRequest:
    plans, labels = cascade(three)
    return ValidationRequest(
        plans=plans,
        configuration=plans.configuration(name),
        labels=labels,
        file_ending=".nii.gz",
        preprocessed=three.preprocessed,
        cases=CASES,
        fold_folder=three.root / "results" / name / "fold_0",
        **changes,
    )


def test_both_stages_of_a_cascade(three: Any) -> None:
    first = cascade_request(three, "3d_lowres")
    validate(first)
    folder = three.root / "results" / "3d_lowres" / "predicted_next_stage" / "3d_cascade_fullres"
    assert names(folder) == {"a1.b2nd", "b2.b2nd", "c3.b2nd"}
    image, _, _ = load_case(three.data, "a1")
    stored = blosc2.open(str(folder / "a1.b2nd"), mode="r")
    assert stored.shape == image.shape[1:]
    assert stored.dtype == np.uint8

    second = cascade_request(three, "3d_cascade_fullres", previous_stage_folder=folder)
    network = Threshold(channels=3)
    validate(second, network)
    tile = network.seen[0][0]  # the first corner of the first case
    part = tuple(slice(0, n) for n in tile.shape[1:])
    extent = tuple(slice(0, n) for n in stored[part].shape)
    start = tuple(max(0, p - n) // 2 for p, n in zip(tile.shape[1:], image.shape[1:], strict=True))
    inner = tuple(slice(s, s + e.stop) for s, e in zip(start, extent, strict=True))
    np.testing.assert_array_equal(tile[0][inner], image[0][part][extent])
    for channel, label in ((1, 1), (2, 2)):
        np.testing.assert_array_equal(tile[channel][inner], stored[part] == label)


def test_cases_that_the_next_stage_lacks_are_skipped(three: Any, caplog: pytest.LogCaptureFixture) -> None:
    request = cascade_request(three, "3d_lowres")
    (three.data / "b2.b2nd").unlink()
    made = validate(request)
    assert made is not None
    folder = three.root / "results" / "3d_lowres" / "predicted_next_stage" / "3d_cascade_fullres"
    assert names(folder) == {"a1.b2nd", "c3.b2nd"}
    assert "Case b2 is not written for the next stage 3d_cascade_fullres" in caplog.text


def test_progress_names_the_case(
    request_for: Callable[..., ValidationRequest], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(validation, "_NOTE_INTERVAL_S", 0.0)
    monkeypatch.setattr("nnunet_pt.core.console.PLAIN_INTERVAL_S", 0.0)
    final_validation(Threshold(), request_for(), device=CPU)
    shown = capsys.readouterr().err
    assert "b2: 50%" in shown or "b2: 100%" in shown
    assert "Validation: 3/3" in shown
    assert "Evaluating: 3/3" in shown
