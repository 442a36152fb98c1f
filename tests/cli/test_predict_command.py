"""``nnUNetv2_predict`` and ``nnUNetv2_predict_from_modelfolder``: arguments, messages and exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.cli import predict, predict_from_modelfolder
from nnunet_pt.inference import prediction
from nnunet_pt.inference.prediction import PredictRequest
from nnunet_pt.inference.report import PredictionReport


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process and makes sure that nobody sees a traceback."""

    def execute(command: Any, line: str) -> Ended:
        try:
            status = command.main(line.split())
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Ended(status, captured.out, captured.err)

    return execute


@pytest.fixture
def trained(small: Any, tiny_model_folder: Any, image_writer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A dataset whose model (folds 0 and 1) is in nnUNet_results, and images with the names a and b."""
    tiny_model_folder(small, folds=(0, 1))
    (small.root / "images").mkdir()
    random = np.random.default_rng(0)
    for case in "ab":
        image = random.normal(size=(9, 10, 11)).astype(np.float32)
        image_writer(image, small.root / "images" / f"{case}_0000.nii.gz")
    for name in ("raw", "preprocessed"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    monkeypatch.setenv("nnUNet_results", str(small.root / "results"))
    return small


def line(dataset: Any, rest: str = "-f 0") -> str:
    usual = f"-i {dataset.root / 'images'} -o {dataset.root / 'out'} -d 7 -c 3d_fullres -device cpu"
    return f"{usual} --disable_tta -precision fp32 {rest}"


def from_folder(dataset: Any, rest: str = "-f 0") -> str:
    model = dataset.root / "results" / dataset.name / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    return f"-i {dataset.root / 'images'} -o {dataset.root / 'out'} -m {model} -device cpu --disable_tta {rest}"


def test_predicts_with_results_alone_in_the_environment(run: Run, trained: Any) -> None:
    ended = run(predict, line(trained))
    assert ended.status == 0, ended.err
    assert "2 cases predicted" in ended.out and str(trained.root / "out") in ended.out
    assert sorted(p.name for p in (trained.root / "out").glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]


def test_predicts_from_a_folder_without_environment(run: Run, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_results")
    ended = run(predict_from_modelfolder, from_folder(trained))
    assert ended.status == 0, ended.err
    ended = run(predict_from_modelfolder, from_folder(trained, "-f 0 --c"))
    assert ended.status == 0 and "2 skipped" in ended.out


def test_failed_case_is_told_twice_and_ends_with_status_3(run: Run, trained: Any) -> None:
    (trained.root / "images" / "a_0000.nii.gz").write_bytes(b"nothing")
    ended = run(predict, line(trained))
    assert ended.status == 3
    assert "Case a cannot be predicted" in ended.out and "1 case predicted, 1 failed" in ended.out
    assert "1 case failed: a" in ended.err and "--continue_prediction" in ended.err
    assert json.loads((trained.root / "out" / "prediction_report.json").read_text())["num_cases"]["failed"] == 1


def test_default_folds_that_do_not_exist(run: Run, trained: Any) -> None:
    ended = run(predict, line(trained, ""))
    assert ended.status == 1
    assert "fold 2, 3, 4" in ended.err and "-f 0 1" in ended.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("-d 8", "number 8"),
        ("-c 2d", "nnUNetTrainer__nnUNetPlans__3d_fullres"),
        ("-tr nnUNetTrainer_5epochs", "nnUNetTrainer__nnUNetPlans__3d_fullres"),
        ("-p otherPlans", "nnUNetTrainer__nnUNetPlans__3d_fullres"),
        ("-chk checkpoint_best.pth", "checkpoint_final.pth"),
        ("-f all", "-f 0 1"),
        ("-i nowhere", "nowhere does not exist"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(run: Run, trained: Any, words: str, named: str) -> None:
    ended = run(predict, f"{line(trained)} {words}")
    assert ended.status == 1 and named in ended.err, ended.err


def test_missing_results_folder_is_named(run: Run, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_results")
    ended = run(predict, line(trained))
    assert ended.status == 1 and "export nnUNet_results=" in ended.err


@pytest.mark.parametrize(
    "words",
    [
        "-step_size 0",
        "-step_size 1.5",
        "-step_size half",
        "-f first",
        "-f -1",
        "-npp -1",
        "-num_parts 0",
        "-part_id -1",
        "-part_id 1",
        "-num_parts 3 -part_id 3",
        "-device tpu",
        "-precision int8",
        "--unknown",
    ],
)
def test_arguments_that_cannot_be_meant(run: Run, trained: Any, words: str) -> None:
    ended = run(predict, f"{line(trained)} {words}")
    assert ended.status == 2 and ended.err
    assert not (trained.root / "out").exists()


def test_output_folder_must_not_be_the_input(run: Run, trained: Any) -> None:
    ended = run(predict, f"{line(trained)} -o {trained.root / 'images'}")
    assert ended.status == 2 and "same as -i" in ended.err


def test_interruption_says_how_to_continue(run: Run, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PredictionReport, "done", stop)
    ended = run(predict, line(trained))
    assert ended.status == 130 and "--continue_prediction" in ended.err


# ----------------------------------------------------------------------------------------------------------- requests


def request_of(command: Any, words: str) -> PredictRequest:
    asked: PredictRequest = command.request(command.build_parser().parse_args(words.split()))
    return asked


def test_defaults_are_those_of_nnunet(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nnUNet_npp", "nnUNet_nps"):
        monkeypatch.delenv(name, raising=False)
    asked = request_of(predict, "-i images -o out -d 7 -c 2d")
    folder = trained.root / "results" / trained.name / "nnUNetTrainer__nnUNetPlans__2d"
    expected = PredictRequest(model_folder=folder, inputs=(Path("images"),), output=Path("out"), folds=(0, 1, 2, 3, 4))
    assert asked == expected
    assert (asked.checkpoint, asked.step_size, asked.mirroring) == ("checkpoint_final.pth", 0.5, True)
    assert (asked.num_readers, asked.num_exporters, asked.num_parts, asked.part_id) == (3, 3, 1, 0)
    assert request_of(predict_from_modelfolder, "-i images -o out -m model") == replace(
        expected, model_folder=Path("model")
    )


def test_every_argument_arrives(trained: Any) -> None:
    words = (
        "-i x y -o out -d 7 -c 3d_fullres -tr T -p P -f 1 all 1 -step_size 0.25 --disable_tta --save_probabilities "
        "--continue_prediction -chk c.pth -prev_stage_predictions before -npp 1 -nps 0 -num_parts 4 -part_id 3 "
        "-device cpu --disable_progress_bar --not_on_device -precision bf16 --keep_orientation"
    )
    assert request_of(predict, words) == PredictRequest(
        model_folder=trained.root / "results" / trained.name / "T__P__3d_fullres",
        inputs=(Path("x"), Path("y")),
        output=Path("out"),
        folds=(1, "all"),
        checkpoint="c.pth",
        step_size=0.25,
        mirroring=False,
        device="cpu",
        precision="bf16",
        results_on_device=False,
        keep_orientation=True,
        save_probabilities=True,
        continue_prediction=True,
        previous_stage=Path("before"),
        num_parts=4,
        part_id=3,
        num_readers=1,
        num_exporters=0,
        progress=False,
    )


@pytest.mark.usefixtures("trained")
def test_numbers_of_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_npp", "5")
    monkeypatch.setenv("nnUNet_nps", "many")
    asked = request_of(predict, "-i images -o out -d 7 -c 2d")
    assert (asked.num_readers, asked.num_exporters) == (5, 3)
    assert request_of(predict, "-i images -o out -d 7 -c 2d -npp 0 -nps 0").is_sequential
    asked = request_of(predict_from_modelfolder, "-i images -o out -m model")
    assert (asked.num_readers, asked.num_exporters) == (3, 3)


def test_a_request_becomes_a_prediction(run: Run, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[PredictRequest] = []

    def note(request: PredictRequest) -> PredictionReport:
        asked.append(request)
        return PredictionReport(request.output / "prediction_report.json", {})

    monkeypatch.setattr(prediction, "predict_folder", note)
    assert run(predict, line(trained)).status == 0
    assert asked[0].device == "cpu" and asked[0].mirroring is False
