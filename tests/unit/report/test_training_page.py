from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

sys.path.append(str(Path(__file__).parent))

from fold_folders import CASES, history, make_fold

from nnunet_pt.core.errors import UsageError
from nnunet_pt.report.training_figures import phase_starts
from nnunet_pt.report.training_page import same_setting, setting_text, training_report
from nnunet_pt.training.recipe import DEFAULT
from nnunet_pt.training.text_log import FiguresFile
from nnunet_pt.transfer.account import TensorTransfer, TransferPlan
from nnunet_pt.transfer.report_files import write_report


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def words(page: str) -> str:
    """What a reader sees."""
    page = page.replace("<wbr>", "")
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)).split())


def test_finished_training(tmp_path: Path) -> None:
    page = training_report(make_fold(tmp_path, recipe={"initial_lr": 0.003, "optimizer": "adamw"}))
    assert titles(page) == ["Overview", "Curves", "Validation", "Cases", "Worst cases", "Recipe"]
    seen = words(page)
    assert "All 4 epochs are done; the mean Dice of 9 validation cases" in seen
    assert "4 of 4" in seen and "Waiting for data 2.0 %" in seen and "Precision fp32" in seen
    assert 'class="warning"' not in page
    assert page.count("data:image/") == 6  # four worst cases, an average one and the best
    assert page.index("a.1: Dice") < page.index("number 2 from below")
    assert "3 settings differ" in seen and "adamw" in seen  # with the number of epochs
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


@pytest.mark.parametrize(
    ("epochs", "finished", "lead"),
    [(1, True, "The only epoch is done;"), (1, False, "1 of 4 epochs is done;"), (3, False, "3 of 4 epochs are done;")],
)
def test_how_far_it_is_in_words(tmp_path: Path, epochs: int, finished: bool, lead: str) -> None:
    planned = {} if finished else {"num_epochs": 4}
    assert lead in words(training_report(make_fold(tmp_path, epochs=epochs, finished=finished, recipe=planned)))


def test_missed_and_invented_classes_are_counted(tmp_path: Path) -> None:
    page = training_report(make_fold(tmp_path, cases=[CASES[0], CASES[-1]]))
    row = re.search(r"<tr><td>stone</td>(.*?)</tr>", page)
    assert row is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row[1])
    assert cells[-3:] == ["1", "0", "0"]  # the last case neither has a stone nor is one predicted
    assert "NaN" not in words(page) and "nan" not in words(page).split()


def test_running_training(tmp_path: Path) -> None:
    folder = make_fold(tmp_path, epochs=1, finished=False)
    page = training_report(folder)
    assert page == training_report(folder)
    assert titles(page) == ["Overview", "Curves", "Recipe"]
    assert "1 of 4 epochs is done; there is no final validation yet." in words(page)
    assert 'class="warning"' not in page


def test_training_without_a_finished_epoch(tmp_path: Path) -> None:
    page = training_report(make_fold(tmp_path, epochs=0, finished=False))
    assert titles(page) == ["Overview", "Recipe"]
    assert "No record of the epochs" in words(page)


def test_all_cases_say_what_their_dice_is_worth(tmp_path: Path) -> None:
    page = training_report(make_fold(tmp_path, fold="all", cases=CASES[:1]))
    assert "trained on the cases that it is validated on" in words(page)
    assert "fold all" in words(page)


def test_slow_data_and_skipped_steps_are_findings(tmp_path: Path) -> None:
    folder = make_fold(tmp_path, finished=False)
    (folder / "progress.jsonl").unlink()
    slow = [replace(f, data_wait_share=0.4, skipped_steps=2) for f in history(4)]
    FiguresFile(folder).start(type(history(0))(slow))
    seen = words(training_report(folder))
    assert "waited for data during 40.0 % of the time" in seen and "8 steps were left out" in seen


def test_damaged_files_are_stated(tmp_path: Path) -> None:
    folder = make_fold(tmp_path)
    (folder / "validation" / "summary.json").write_text("{")
    (folder / "checkpoint_final.pth").write_bytes(b"")
    page = training_report(folder)
    assert page.count('class="warning"') >= 2
    assert "summary.json is not valid JSON" in words(page) and titles(page) == ["Overview", "Curves", "Recipe"]


def test_missing_images_are_stated(tmp_path: Path) -> None:
    folder = make_fold(tmp_path, cases=CASES[:2])
    (tmp_path / "preprocessed").rename(tmp_path / "gone")
    assert "The annotation of b was not found" in words(training_report(folder))


def test_transfer_account(tmp_path: Path) -> None:
    folder = make_fold(tmp_path, cases=CASES[:2])
    tensors = [
        TensorTransfer(
            target=f"{stage}.weight", source=f"{stage}.weight", action=action, how="", target_shape=(4,),
            source_shape=(4,), parameters=4, transferred=came, part=part, stage=stage,
        )
        for stage, part, action, came in (
            ("encoder.stages.0", "encoder", "copied", 4), ("heads <new>", "heads", "skipped", 0),
        )
    ]  # fmt: skip
    plan = TransferPlan(tensors=tuple(tensors), path=Path("/models/x.pth"), kind="nnunet", sha256="abc", policy="match")
    plan.apply(nn.Linear(1, 1))
    write_report(plan, folder)
    page = training_report(folder)
    assert "Transferred weights" in titles(page)
    seen = words(page)
    assert "Of the whole network 50.0 %" in seen and "Policy match" in seen and "/models/x.pth" in seen
    assert "heads &lt;new&gt;" in page and "heads <new>" not in page


def test_many_classes_get_one_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_pt.report.training_page.MAX_CLASS_COLUMNS", 1)
    seen = words(training_report(make_fold(tmp_path, cases=CASES[:2])))
    assert "lowest class" in seen and "its Dice" in seen


def test_not_a_fold(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not hold a training"):
        training_report(tmp_path)


def test_settings_as_texts() -> None:
    assert [setting_text(v) for v in (None, True, False, (), [1, 2], 0.1, 0)] == [
        "\N{EN DASH}",
        "yes",
        "no",
        "\N{EN DASH}",
        "1, 2",
        "0.1",
        "0",
    ]
    assert same_setting(0.1 + 0.2, 0.3) and not same_setting(1, 2) and not same_setting(None, 0)


def test_phases_of_a_training() -> None:
    recipe = replace(DEFAULT, freeze=("encoder",), freeze_epochs=3, warmup_epochs=5)
    assert phase_starts(recipe, 10) == (3, 5) and phase_starts(recipe, 4) == (3,)
    assert phase_starts(DEFAULT, 10) == () and phase_starts(None, 10) == ()
