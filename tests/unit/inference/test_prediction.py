"""Predicting folders: the files, what costs a case, what stops everything, and going on after an interruption."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_pt.core.errors import DatasetError, NnunetError, PredictionError, StorageError, UsageError
from nnunet_pt.core.files import write_json
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.inference import prediction
from nnunet_pt.inference.prediction import PredictRequest, model_folder_of, predict_folder
from nnunet_pt.inference.report import PredictionReport

CASES = ("a", "b", "c")
Make = Callable[..., Any]


class Bench:
    """Images, a model, and a folder for predictions."""

    def __init__(self, dataset: Any, model: Path) -> None:
        self.dataset = dataset
        self.model = model
        self.images = dataset.root / "images"
        self.out = dataset.root / "out"
        self.images.mkdir(exist_ok=True)

    def image(self, name: str, shape: Sequence[int] = (10, 11, 12), values: np.ndarray | None = None) -> Path:
        random = np.random.default_rng([*name.encode()])
        image = sitk.GetImageFromArray(random.normal(size=shape).astype(np.float32) if values is None else values)
        image.SetSpacing((0.9, 1.2, 1.3)[: len(shape)])
        path: Path = self.images / f"{name}.nii.gz"
        sitk.WriteImage(image, str(path))
        return path

    def request(self, **changes: Any) -> PredictRequest:
        usual: dict[str, Any] = {
            "model_folder": self.model,
            "inputs": (self.images,),
            "output": self.out,
            "folds": (0,),
            "device": "cpu",
            "precision": "fp32",
            "mirroring": False,
            "num_readers": 1,
            "num_exporters": 1,
            "progress": False,
        }
        return PredictRequest(**(usual | changes))

    def predict(self, **changes: Any) -> PredictionReport:
        return predict_folder(self.request(**changes))

    def report(self, name: str = "prediction_report.json") -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / name).read_text())
        return content

    def segmentation(self, case: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(self.out / f"{case}.nii.gz")))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir()) if self.out.is_dir() else []


FILES_BESIDE = ["dataset.json", "plans.json", "predict_from_raw_data_args.json", "prediction_report.json"]


@pytest.fixture
def bench(small: Any, tiny_model_folder: Make) -> Bench:
    """Three images with one channel, and a model with folds 0 and 1."""
    result = Bench(small, tiny_model_folder(small, folds=(0, 1)))
    for case in CASES:
        result.image(f"{case}_0000")
    return result


def failure(report: PredictionReport, case: str) -> str:
    assert list(report.failures) == [case]
    return report.failures[case]


# ----------------------------------------------------------------------------------------------------- what is written


def test_every_case_gets_a_segmentation_in_its_geometry(bench: Bench) -> None:
    report = bench.predict()
    assert bench.files() == sorted([*(f"{c}.nii.gz" for c in CASES), *FILES_BESIDE])
    assert report.names("done") == list(CASES) and not report.failures
    for case in CASES:
        made = sitk.ReadImage(str(bench.out / f"{case}.nii.gz"))
        assert made.GetSize() == (12, 11, 10) and made.GetPixelID() == sitk.sitkUInt8
        np.testing.assert_allclose(made.GetSpacing(), (0.9, 1.2, 1.3))
        assert set(np.unique(bench.segmentation(case))) <= {0, 1, 2}
    assert len(np.unique(bench.segmentation("a"))) > 1


def test_files_beside_the_predictions(bench: Bench) -> None:
    bench.predict(step_size=0.7, mirroring=True)
    assert json.loads((bench.out / "dataset.json").read_text()) == bench.dataset.description
    assert json.loads((bench.out / "plans.json").read_text()) == json.loads((bench.model / "plans.json").read_text())
    report = bench.report()
    assert report["status"] == "finished"
    assert report["model"]["folds"] == ["0"] and report["model"]["configuration"] == "3d_fullres"
    assert report["settings"] | {"orientation": None} == {
        "step_size": 0.7, "mirror_axes": [0, 1, 2], "device": "cpu", "precision": "fp32", "orientation": None,
    }  # fmt: skip
    assert set(report["versions"]) == {"nnunet-pt", "torch", "python"}
    assert report["num_cases"] == {"done": 3, "failed": 0, "skipped": 0, "waiting": 0}
    assert all(entry["status"] == "done" and entry["seconds"] >= 0 for entry in report["cases"].values())


def test_arguments_are_recorded_as_nnunet_does(bench: Bench) -> None:
    bench.predict(num_readers=2, num_exporters=3)
    text = (bench.out / "predict_from_raw_data_args.json").read_text()
    expected = {
        "folder_with_segs_from_prev_stage": None,
        "list_of_lists_or_source_folder": str(bench.images),
        "num_parts": 1,
        "num_processes_preprocessing": 2,
        "num_processes_segmentation_export": 3,
        "output_folder_or_list_of_truncated_output_files": str(bench.out),
        "overwrite": True,
        "part_id": 0,
        "save_probabilities": False,
    }
    assert text == json.dumps(expected, indent=4)
    bench.predict(num_readers=0, num_exporters=0, continue_prediction=True)
    recorded = json.loads((bench.out / "predict_from_raw_data_args.json").read_text())
    assert recorded == {k: v for k, v in expected.items() if not k.startswith("num_") and k != "part_id"} | {
        "overwrite": False
    }


def test_one_after_another_gives_the_same(bench: Bench) -> None:
    bench.predict(num_readers=3, num_exporters=3)
    threaded = {case: bench.segmentation(case) for case in CASES}
    shutil.rmtree(bench.out)
    report = bench.predict(num_readers=0, num_exporters=0)
    assert report.names("done") == list(CASES)
    for case in CASES:
        np.testing.assert_array_equal(bench.segmentation(case), threaded[case])


def test_probabilities_are_written_on_demand(bench: Bench) -> None:
    bench.predict(save_probabilities=True)
    for case in CASES:
        with np.load(bench.out / f"{case}.npz") as file:
            probabilities = file["probabilities"]
        assert probabilities.shape == (3, 10, 11, 12) and (bench.out / f"{case}.pkl").is_file()
        second, first = np.sort(probabilities, 0)[-2:]
        clear = first - second > 1e-3  # the logits of probabilities are rounded
        np.testing.assert_array_equal(probabilities.argmax(0)[clear], bench.segmentation(case)[clear])
        assert clear.mean() > 0.9


def test_folds_are_averaged(bench: Bench) -> None:
    def probabilities(*folds: int) -> np.ndarray:
        bench.predict(folds=folds, save_probabilities=True, inputs=(bench.images / "a_0000.nii.gz",))
        with np.load(bench.out / "a.npz") as file:
            return file["probabilities"]

    first, second, both = probabilities(0), probabilities(1), probabilities(0, 1)
    assert np.abs(first - second).max() > 0.05
    mean = np.sqrt(first * second)  # of logits
    np.testing.assert_allclose(both, mean / mean.sum(0), atol=5e-3)


def test_parts_together_are_the_whole_and_keep_their_reports(bench: Bench) -> None:
    bench.predict()
    whole = {case: bench.segmentation(case) for case in CASES}
    shutil.rmtree(bench.out)
    for part in range(2):
        bench.predict(num_parts=2, part_id=part)
    for case in CASES:
        np.testing.assert_array_equal(bench.segmentation(case), whole[case])
    assert list(bench.report("prediction_report_part_0_of_2.json")["cases"]) == ["a", "c"]
    assert list(bench.report("prediction_report_part_1_of_2.json")["cases"]) == ["b"]


def test_parts_that_do_not_belong_together_are_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.predict()
    bench.predict(num_parts=2, part_id=0)
    bench.predict(num_parts=2, part_id=1)
    bench.predict(num_parts=2, part_id=1)
    assert "belong together" not in caplog.text
    bench.predict(num_parts=2, part_id=1, folds=(1,), step_size=0.75)
    assert "part 0 of 2, begun" in caplog.text and "folds ['0'], step_size 0.5" in caplog.text
    caplog.clear()
    bench.predict(num_parts=3, part_id=2)
    assert "part 0 of 2, begun" in caplog.text and "-num_parts 2" in caplog.text


def test_a_part_without_cases_is_no_error(bench: Bench) -> None:
    report = bench.predict(num_parts=5, part_id=4)
    assert not report.cases and "0 cases predicted" in report.summary()


def test_images_smaller_than_a_patch(bench: Bench) -> None:
    bench.image("small_0000", shape=(3, 4, 5))
    report = bench.predict()
    assert not report.failures and bench.segmentation("small").shape == (3, 4, 5)


def test_volumes_with_a_2d_model(small: Any, tiny_model_folder: Make) -> None:
    bench = Bench(small, tiny_model_folder(small, "2d"))
    bench.image("a_0000")
    assert not bench.predict().failures
    assert bench.segmentation("a").shape == (10, 11, 12)


def test_colour_images_with_a_2d_model(small: Any, tiny_model_folder: Make) -> None:
    small.begin(channels=("R", "G", "B"), ending=".png")
    small.plans["image_reader_writer"] = "NaturalImage2DIO"
    bench = Bench(small, tiny_model_folder(small, "2d"))
    values = np.random.default_rng(0).integers(0, 255, (20, 22, 3), np.uint8)
    image = sitk.GetImageFromArray(values, isVector=True)
    sitk.WriteImage(image, str(bench.images / "a_0000.png"))
    assert not bench.predict().failures
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(bench.out / "a.png"))).shape == (20, 22)


# ------------------------------------------------------------------------------------------- what costs only its case


def test_missing_channel_costs_its_case(small: Any, tiny_model_folder: Make, caplog: pytest.LogCaptureFixture) -> None:
    small.begin(channels=("T1", "T2"))
    bench = Bench(small, tiny_model_folder(small))
    for name in ("a_0000", "a_0001", "b_0000", "c_0000", "c_0001"):
        bench.image(name)
    report = bench.predict()
    assert "b_0001.nii.gz" in failure(report, "b")
    assert "Case b cannot be predicted" in caplog.text
    assert [f for f in bench.files() if f.endswith(".nii.gz")] == ["a.nii.gz", "c.nii.gz"]
    assert bench.report()["cases"]["b"]["status"] == "failed"
    assert "b_0001.nii.gz" in bench.report()["cases"]["b"]["reason"]
    summary = report.summary()
    assert "2 cases predicted, 1 failed" in summary and "b_0001.nii.gz" in summary


@pytest.mark.parametrize("readers", [0, 2])
def test_unreadable_image_costs_its_case(bench: Bench, readers: int, caplog: pytest.LogCaptureFixture) -> None:
    path = bench.images / "b_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    report = bench.predict(num_readers=readers, num_exporters=readers)
    assert "b_0000.nii.gz" in failure(report, "b")
    assert caplog.text.count("Case b cannot be predicted") == 1
    assert report.names("done") == ["a", "c"]


def test_2d_image_for_a_3d_model_costs_its_case(bench: Bench) -> None:
    bench.image("b_0000", shape=(11, 12))
    assert "2D" in failure(bench.predict(), "b")


def test_values_that_are_no_numbers_cost_their_case(bench: Bench) -> None:
    values = np.ones((10, 11, 12), np.float32)
    values[0, 0, 0] = np.nan
    bench.image("b_0000", values=values)
    assert "1 NaN" in failure(bench.predict(), "b")


@pytest.mark.parametrize("tiny_disk", ["48k"], indirect=True)
def test_full_disk_costs_the_cases_that_do_not_fit(bench: Bench, tiny_disk: Path) -> None:
    bench.out = tiny_disk / "out"
    report = bench.predict(save_probabilities=True, num_readers=0, num_exporters=0)
    assert list(report.failures) and all("no space left" in reason for reason in report.failures.values())
    assert report.names("done")
    for case in report.names("done"):
        assert bench.segmentation(case).shape == (10, 11, 12)
    assert not list(bench.out.glob(".partial-*"))
    assert bench.report()["num_cases"]["failed"] == len(report.failures)


def test_images_without_channel_number_are_named(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.image("stray")
    report = bench.predict()
    assert not report.failures and "stray.nii.gz" in caplog.text
    assert bench.report()["ignored_images"] == ["stray.nii.gz"]


# ------------------------------------------------------------------------------------------------ what stops everything


def test_missing_fold_comes_with_what_there_is(bench: Bench) -> None:
    with pytest.raises(PredictionError) as raised:
        bench.predict(folds=(0, 1, 2, 3, 4))
    assert "fold 2, 3, 4" in raised.value.text() and "-f 0 1" in raised.value.text()
    assert not bench.out.exists()


def test_missing_checkpoint_comes_with_what_there_is(bench: Bench) -> None:
    with pytest.raises(PredictionError) as raised:
        bench.predict(checkpoint="checkpoint_best.pth")
    assert "-chk: checkpoint_final.pth" in raised.value.text()
    assert not bench.out.exists()


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_*"])
def test_incomplete_model_folder(bench: Bench, name: str) -> None:
    for path in bench.model.glob(name):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(PredictionError, match=r"incomplete[\s\S]*missing: " + name.replace("*", "0")):
        bench.predict()
    assert not bench.out.exists()


def test_damaged_checkpoint(bench: Bench) -> None:
    path = bench.model / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(NnunetError, match=r"checkpoint_final\.pth"):
        bench.predict()


def test_empty_input_folder(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PredictionError, match="no files"):
        bench.predict(inputs=(tmp_path / "empty",))
    assert not bench.out.exists()


def test_output_that_cannot_be_written_is_refused_before_anything_is_loaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "_load", lambda *_: pytest.fail("was loaded"))
    bench.out.write_text("a file")
    with pytest.raises(StorageError, match="out"):
        bench.predict()
    with pytest.raises(StorageError, match="out"):
        bench.predict(output=bench.out / "below")


@pytest.mark.skipif(not os.geteuid(), reason="root may write anywhere")
def test_output_without_permission(bench: Bench) -> None:
    bench.out.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="permission denied"):
        bench.predict()


@pytest.mark.parametrize(("name", "named"), [("images", "-i"), ("model", "the model's folder")])
def test_output_must_be_a_folder_of_its_own(bench: Bench, name: str, named: str) -> None:
    with pytest.raises(UsageError, match=f"same as {named}"):
        bench.request(output=getattr(bench, name) / ".." / getattr(bench, name).name)


@pytest.mark.parametrize(("parts", "part"), [(1, 1), (4, 4), (4, -1), (0, 0)])
def test_parts_that_do_not_exist(bench: Bench, parts: int, part: int) -> None:
    with pytest.raises(UsageError, match="no such part"):
        bench.request(num_parts=parts, part_id=part)


# ------------------------------------------------------------------------------------------------------------ cascade


@pytest.fixture
def cascade(small: Any, tiny_model_folder: Make) -> Bench:
    """A cascade's second stage, two images, and the first stage's predictions in ``first``."""
    configurations = small.plans["configurations"]
    configurations["3d_lowres"] = {"inherits_from": "3d_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    bench = Bench(small, tiny_model_folder(small, "3d_cascade_fullres"))
    (small.root / "first").mkdir()
    for case in ("a", "b"):
        image = bench.image(f"{case}_0000")
        label = sitk.Cast(sitk.ReadImage(str(image)) > 0, sitk.sitkUInt8)
        sitk.WriteImage(label, str(small.root / "first" / f"{case}.nii.gz"))
    return bench


def test_cascade_uses_the_previous_stage(cascade: Bench) -> None:
    first = cascade.dataset.root / "first"
    assert not cascade.predict(previous_stage=first).failures
    before = cascade.segmentation("a")
    empty = sitk.ReadImage(str(first / "a.nii.gz")) * 0
    sitk.WriteImage(empty, str(first / "a.nii.gz"))
    cascade.predict(previous_stage=first)
    assert (before != cascade.segmentation("a")).any()


def test_cascade_without_previous_stage(cascade: Bench) -> None:
    with pytest.raises(PredictionError) as raised:
        cascade.predict()
    assert "-prev_stage_predictions" in raised.value.text() and "-c 3d_lowres" in raised.value.text()
    with pytest.raises(PredictionError, match="no folder"):
        cascade.predict(previous_stage=cascade.dataset.root / "nowhere")


def test_previous_stage_of_other_images(cascade: Bench) -> None:
    with pytest.raises(PredictionError, match="for any of the cases"):
        cascade.predict(previous_stage=cascade.images)


def test_missing_previous_stage_costs_its_case(cascade: Bench) -> None:
    first = cascade.dataset.root / "first"
    (first / "a.nii.gz").unlink()
    report = cascade.predict(previous_stage=first)
    assert str(first / "a.nii.gz") in failure(report, "a") and report.names("done") == ["b"]


def test_previous_stage_of_another_shape_costs_its_case(cascade: Bench) -> None:
    first = cascade.dataset.root / "first"
    other = sitk.GetImageFromArray(np.zeros((9, 11, 12), np.uint8))
    sitk.WriteImage(other, str(first / "a.nii.gz"))
    reason = failure(cascade.predict(previous_stage=first), "a")
    assert "(9, 11, 12)" in reason and "(10, 11, 12)" in reason


def test_previous_stage_for_a_model_that_needs_none(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.predict(previous_stage=bench.dataset.root)
    assert "3d_fullres is no cascade" in caplog.text


# ------------------------------------------------------------------------------------------------------------ going on


def times(bench: Bench) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in bench.out.glob("*.nii.gz")}


def test_continuing_keeps_what_is_finished(bench: Bench) -> None:
    bench.predict()
    (bench.out / "b.nii.gz").unlink()
    before = times(bench)
    report = bench.predict(continue_prediction=True)
    assert report.names("done") == ["b"] and report.names("skipped") == ["a", "c"]
    assert before.items() <= times(bench).items() and len(times(bench)) == 3
    assert "1 case predicted, 2 skipped" in report.summary()


def test_continuing_when_everything_is_done_loads_no_network(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.predict()
    monkeypatch.setattr(prediction, "_load", lambda *_: pytest.fail("was loaded"))
    report = bench.predict(continue_prediction=True)
    assert report.names("skipped") == list(CASES)


def test_continuing_with_probabilities_makes_the_missing_ones(bench: Bench) -> None:
    bench.predict()
    assert bench.predict(continue_prediction=True, save_probabilities=True).names("done") == list(CASES)
    assert bench.predict(continue_prediction=True, save_probabilities=True).names("skipped") == list(CASES)


class Stop(BaseException):
    """Stands for Ctrl-C."""


def interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch, after: str, **changes: Any) -> None:
    """A run that is stopped when the given case is done."""
    done = PredictionReport.done

    def stop(report: PredictionReport, case: str, seconds: float) -> None:
        done(report, case, seconds)
        if case == after:
            raise Stop

    with monkeypatch.context() as context, pytest.raises(Stop):
        context.setattr(PredictionReport, "done", stop)
        bench.predict(**changes)


def test_an_interrupted_run_keeps_what_it_has_and_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(bench, monkeypatch, after="a", num_readers=0, num_exporters=0)
    assert [f for f in bench.files() if f.endswith(".nii.gz")] == ["a.nii.gz"]
    report = bench.report()
    assert report["status"] == "interrupted"
    assert {case: entry["status"] for case, entry in report["cases"].items()} == {
        "a": "done", "b": "waiting", "c": "waiting",
    }  # fmt: skip
    assert bench.predict(continue_prediction=True).names("done") == ["b", "c"]


def test_continuing_a_run_that_was_to_replace_earlier_predictions(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions of the earlier run do not pass for finished ones."""
    bench.predict(folds=(1,))
    earlier = bench.segmentation("c")
    interrupted(bench, monkeypatch, after="a", num_readers=0, num_exporters=0)
    assert bench.predict(continue_prediction=True).names("done") == ["b", "c"]
    continued = bench.segmentation("c")
    bench.predict()
    np.testing.assert_array_equal(continued, bench.segmentation("c"))
    assert (continued != earlier).any()


def test_a_case_that_failed_is_tried_again(bench: Bench) -> None:
    bench.predict()
    intact = (bench.images / "b_0000.nii.gz").read_bytes()
    (bench.images / "b_0000.nii.gz").write_bytes(intact[:500])
    assert "of an earlier run" in failure(bench.predict(), "b")
    (bench.images / "b_0000.nii.gz").write_bytes(intact)
    assert bench.predict(continue_prediction=True).names("done") == ["b"]


def test_continuing_with_another_model_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.predict()
    (bench.out / "b.nii.gz").unlink()
    caplog.clear()
    bench.predict(continue_prediction=True, folds=(1,))
    assert "made with another model" in caplog.text and "folds ['0']" in caplog.text


def test_damaged_reports_keep_nobody_from_continuing(bench: Bench) -> None:
    bench.predict()
    (bench.out / "prediction_report.json").write_text("{")
    (bench.out / "prediction_report_part_0_of_9.json").write_text('{"cases": {"a": 3}}')
    assert bench.predict(continue_prediction=True).names("skipped") == list(CASES)


def test_files_of_killed_processes_are_removed_and_those_of_running_ones_kept(bench: Bench) -> None:
    with prediction_file(bench) as temporary:
        dead = bench.out / temporary.name.replace(str(os.getpid()), "999999999")
        dead.write_text("half")
        bench.predict()
        assert temporary.is_file() and not dead.exists()


def prediction_file(bench: Bench) -> Any:
    """A prediction that is being written by this process."""
    from nnunet_pt.core.files import atomic_path

    return atomic_path(bench.out / "other.nii.gz")


def test_report_is_saved_from_time_to_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_pt.inference import report as module

    written: list[Path] = []
    monkeypatch.setattr(module, "write_json", lambda path, value: (written.append(path), write_json(path, value)))
    report = PredictionReport(tmp_path / "prediction_report.json", {})
    for number in range(100):
        report.done(str(number), 0.1)
    assert not written
    monkeypatch.setattr(module, "SAVE_INTERVAL_S", 0.0)
    report.failed("x", ValueError("reason"))
    assert len(written) == 1
    assert json.loads(written[0].read_text())["cases"]["x"] == {"status": "failed", "reason": "ValueError: reason"}


# ----------------------------------------------------------------------------------------------------- where models are


def test_folder_of_a_trained_model(tmp_path: Path) -> None:
    (tmp_path / "Dataset004_Hippocampus").mkdir()
    workspace = Workspace(Settings(results=tmp_path))
    folder = model_folder_of(workspace, 4, "2d", trainer="mine.py:MyTrainer", plans_name="nnUNetPlans")
    assert folder == tmp_path / "Dataset004_Hippocampus" / "MyTrainer__nnUNetPlans__2d"
    with pytest.raises(DatasetError, match="number 5"):
        model_folder_of(workspace, 5, "2d", trainer="nnUNetTrainer", plans_name="nnUNetPlans")
    with pytest.raises(NnunetError, match="nnUNet_results"):
        model_folder_of(Workspace(Settings()), 4, "2d", trainer="nnUNetTrainer", plans_name="nnUNetPlans")


def test_checks_need_no_torch() -> None:
    """So that a wrong path is answered at once."""
    import subprocess

    program = "import sys, nnunet_pt.inference.prediction; print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="nnunet_pt")
