"""Parts of the cases, as users ask for them: exit statuses and what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.cli import evaluate_folder, extract_fingerprint, preprocess


@pytest.fixture
def dataset(three: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A dataset that the environment points to."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(three.root / name))
    return three


def part(number: int, total: int = 2) -> list[str]:
    return ["-num_parts", str(total), "-part_id", str(number)]


def test_preprocessing(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-d", "7", "-c", "3d_fullres", "-np", "1", "--no_pbar"]
    assert preprocess.main([*arguments, *part(1)]) == 0
    assert "part 1 of 2 ended; waiting for part 0" in capsys.readouterr().out
    assert preprocess.main([*arguments, *part(1, 3)]) == 2
    assert "part 1 of 2, begun" in capsys.readouterr().err
    assert preprocess.main([*arguments, *part(0), "--json_log"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (result,) = lines[-1]["data"]["results"]
    assert result["configurations"][0]["made"] == ["a1", "c3"]
    assert result["configurations"][0]["missing_parts"] == [] and result["part"] == {"number": 0, "total": 2}
    assert len(list(dataset.data.iterdir())) == 9


@pytest.mark.usefixtures("dataset")
def test_fingerprint(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-d", "7", "-np", "1", "--no_pbar"]
    assert extract_fingerprint.main([*arguments, *part(1)]) == 0
    assert "part 1 of 2 ended; waiting for part 0" in capsys.readouterr().out
    assert extract_fingerprint.main([*arguments, *part(0)]) == 0
    assert "Fingerprint of 3 cases written" in capsys.readouterr().out


def test_evaluation(dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(dataset.raw / "labelsTr", tmp_path / "predictions")
    arguments = [str(dataset.raw / "labelsTr"), str(tmp_path / "predictions"), "-np", "1", "--no_pbar"]
    arguments += ["-djfile", str(dataset.raw / "dataset.json")]
    arguments += ["-pfile", str(dataset.preprocessed / "nnUNetPlans.json"), "-o", str(tmp_path / "out" / "s.json")]
    assert evaluate_folder.main([*arguments, *part(0)]) == 0
    assert "part 0 of 2 ended; waiting for part 1" in capsys.readouterr().out
    assert evaluate_folder.main([*arguments, *part(1)]) == 0
    assert "Metrics of 3 cases" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["s.json"]


@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize("number", ["2", "5"])
def test_parts_that_do_not_exist(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (preprocess, extract_fingerprint):
        assert command.main(["-d", "7", "-num_parts", "2", "-part_id", number]) == 2
        error = capsys.readouterr().err
        assert f"-part_id {number} with -num_parts 2" in error and "from 0 to 1" in error


@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize("words", [["-num_parts", "0"], ["-num_parts", "x"], ["-part_id", "-1"]])
def test_numbers_that_are_none(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        preprocess.main(["-d", "7", *words])
    assert ended.value.code == 2


@pytest.mark.usefixtures("dataset")
def test_no_part_starts_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert preprocess.main(["-d", "7", "--clean", *part(0)]) == 2
    assert "--clean cannot be done by one of several parts" in capsys.readouterr().err
