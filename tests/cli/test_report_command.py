from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit" / "report"))

from fold_folders import CASES, make_fold, make_raw

from nnunet_pt.cli.report import DEFAULT_PICTURES, build_parser, main
from nnunet_pt.report.dataset_content import DEFAULT_PICTURES as PICTURES_OF_THE_REPORT


@pytest.fixture
def at_home(three: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A dataset whose folders are those of the environment."""
    monkeypatch.setenv("nnUNet_raw", str(three.raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(three.preprocessed.parent))
    monkeypatch.setenv("nnUNet_results", str(three.root / "results"))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.chdir(three.root)
    return three


def test_the_dataset_report_goes_beside_the_plans(at_home: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", at_home.name, "--no_pbar", "-pictures", "1"]) == 0
    path = at_home.preprocessed / "dataset_report.html"
    assert str(path) in capsys.readouterr().out
    html = path.read_text(encoding="utf-8")
    assert html.count("<img ") == 1
    assert main(["dataset", at_home.name, "--no_pbar", "--all_pictures", "-o", "here.html"]) == 0
    assert Path("here.html").read_text(encoding="utf-8").count("<img ") == 3


def test_plans_report(at_home: Any, tiny_model_folder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plans", at_home.name]) == 0
    assert (at_home.preprocessed / "nnUNetPlans_report.html").is_file()
    model = tiny_model_folder(at_home)
    assert main(["plans", str(model)]) == 0
    assert (model / "plans_report.html").is_file()
    capsys.readouterr()
    assert main(["plans", at_home.name, "-p", "otherPlans"]) == 1
    assert "these plans: nnUNetPlans" in capsys.readouterr().err


def test_a_training_report_has_pictures_as_long_as_the_raw_images_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = make_fold(tmp_path, cases=CASES[:2])
    make_raw(tmp_path, CASES[:2])
    shutil.rmtree(tmp_path / "preprocessed")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    assert main(["training", str(fold), "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<img ") == 2


def test_training_and_comparison_say_what_is_missing(at_home: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training", at_home.name, "3d_fullres", "0"]) == 1
    assert "There is no training" in capsys.readouterr().err
    assert main(["training", at_home.name, "3d_fullres"]) == 2
    assert main(["compare", "one"]) == 2
    assert "two" in capsys.readouterr().err


def test_every_report_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for report in ("dataset", "plans", "training", "compare"):
        with pytest.raises(SystemExit) as ended:
            main([report, "--help"])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: nnUNetv2_report {report} ")
        assert "examples:" in out
        assert "-o FILE" in out
    with pytest.raises(SystemExit) as ended:
        main(["datasett", "4"])
    assert ended.value.code == 2


def test_defaults_are_those_of_the_report() -> None:
    assert DEFAULT_PICTURES == PICTURES_OF_THE_REPORT
    args = build_parser().parse_args(["dataset", "4"])
    assert (args.dataset, args.pictures, args.channel, args.o) == (4, DEFAULT_PICTURES, 0, None)
