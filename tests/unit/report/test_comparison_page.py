from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from fold_folders import CASES, DATASET, make_fold

from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.files import read_json, write_json
from nnunet_pt.report.comparison_page import comparison_report
from nnunet_pt.report.comparison_record import distinguishing_names, mean_interval, pair_up, read_trainings


def words(page: str) -> str:
    page = page.replace("<wbr>", "")
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)).split())


def warnings_of(page: str) -> list[str]:
    return re.findall(r'<p class="warning"[^>]*>(.*?)</p>', page)


def test_two_trainings_on_the_same_cases(tmp_path: Path) -> None:
    first = make_fold(tmp_path, shift=2)
    second = make_fold(tmp_path, trainer="Better", recipe={"initial_lr": 0.003, "freeze": ("encoder",)})
    pairing = pair_up(read_trainings([first, second]))
    assert pairing is not None and pairing.cases == CASES and pairing.all_cases_common
    assert pairing.names == ("nnUNetTrainer", "Better")
    assert (pairing.differences(1) > 0).all() and not pairing.relabelled
    page = comparison_report([first, second])
    seen = words(page)
    assert "“Better” has the highest mean Dice on the 9 cases that all have in common" in seen
    assert warnings_of(page) == []
    assert re.search(r'<tr class="marked"><td>Better', page)
    assert "freeze \N{EN DASH} encoder" in seen and "initial_lr 0.01 0.003" in seen and "num_epochs" not in seen
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Overview", "Differences", "Cases", "Curves", "What differs"]


def test_the_same_numbers_as_by_hand(tmp_path: Path) -> None:
    folders = [make_fold(tmp_path, shift=2), make_fold(tmp_path, trainer="Better")]
    pairing = pair_up(read_trainings(folders))
    assert pairing is not None
    by_hand = []
    for folder in folders:
        summary = read_json(folder / "validation" / "summary.json")
        cases = [[m["Dice"] for m in case["metrics"].values()] for case in summary["metric_per_case"]]
        by_hand.append(np.nanmean(np.array(cases, float), axis=1))
        means = [m["Dice"] for m in summary["mean"].values()]
        np.testing.assert_allclose(pairing.class_means()[len(by_hand) - 1], means)
    np.testing.assert_allclose(pairing.case_means(), by_hand)
    np.testing.assert_allclose(pairing.differences(1), by_hand[1] - by_hand[0])


def test_other_cases_are_a_warning(tmp_path: Path) -> None:
    page = comparison_report([make_fold(tmp_path, cases=CASES[:6]), make_fold(tmp_path, fold=1, cases=CASES[4:])])
    assert "not validated on the same cases (fold_0: 6, fold_1: 5; 2 in common)" in warnings_of(page)[0]
    assert "On the 2 cases that all of them have" in words(page) and 'class="marked"' not in page
    assert "fold 0 1" in words(page)


def test_no_common_cases(tmp_path: Path) -> None:
    page = comparison_report([make_fold(tmp_path, cases=CASES[:3]), make_fold(tmp_path, fold=1, cases=CASES[3:])])
    assert "cannot be compared" in warnings_of(page)[0]
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Overview", "Curves", "What differs"]


def test_other_annotations_are_a_warning(tmp_path: Path) -> None:
    folders = [make_fold(tmp_path), make_fold(tmp_path, trainer="Other")]
    path = folders[1] / "validation" / "summary.json"
    summary = read_json(path)
    summary["metric_per_case"][3]["metrics"]["1"]["n_ref"] += 1
    write_json(path, summary)
    (warning,) = warnings_of(comparison_report(folders))
    assert "The annotations of d are not the same" in warning


def test_running_and_all_are_said(tmp_path: Path) -> None:
    folders = [make_fold(tmp_path, fold="all"), make_fold(tmp_path), make_fold(tmp_path, fold=1, finished=False)]
    found = warnings_of(comparison_report(folders, ["every case", "fold zero", "going on"]))
    assert any(w.startswith("every case: trained with the fold") for w in found)
    assert "Not finished: going on." in found
    assert len(found) == 2


def test_names_are_what_distinguishes_the_folders() -> None:
    model = Path(f"/r/{DATASET}/A__nnUNetPlans__2d")
    assert distinguishing_names([model / "fold_0", model / "fold_1"]) == ["fold_0", "fold_1"]
    other = model.parent / "A__nnUNetPlans__3d_fullres" / "fold_0"
    assert distinguishing_names([model / "fold_0", other]) == ["2d", "3d_fullres"]
    assert distinguishing_names([model / "fold_0", other, model / "fold_1"]) == [
        "2d fold_0", "3d_fullres fold_0", "2d fold_1",
    ]  # fmt: skip
    far = [Path(f"/{seed}/results/{DATASET}/A__P__2d/fold_0") for seed in ("one", "two")]
    assert distinguishing_names(far) == ["one", "two"]
    assert len(set(distinguishing_names([Path("/x/y"), Path("/x/y/z"), Path("/q")]))) == 3


def test_wrong_arguments(tmp_path: Path) -> None:
    folder = make_fold(tmp_path, finished=False)
    other = make_fold(tmp_path, fold=1, finished=False)
    with pytest.raises(UsageError, match="two trainings at least"):
        comparison_report([folder])
    with pytest.raises(UsageError, match="given twice"):
        comparison_report([folder, folder.parent / "." / folder.name])
    for names in (["one"], ["same", "same"]):
        with pytest.raises(UsageError, match="names do not fit"):
            comparison_report([folder, other], names)
    with pytest.raises(UsageError, match="There is no folder"):
        comparison_report([folder, folder.parent / "fold_7"])
    with pytest.raises(UsageError, match="Not all folders") as info:
        comparison_report([tmp_path, folder.parent / "fold_7"])
    assert "fold_7" in str(info.value) and "does not hold a training" in str(info.value)


def test_interval_of_the_mean() -> None:
    differences = np.random.default_rng(1).normal(0.1, 0.05, 400)
    low, high = mean_interval(differences)
    half = 1.96 * differences.std(ddof=1) / 20
    assert low == pytest.approx(differences.mean() - half, abs=half / 5)
    assert high == pytest.approx(differences.mean() + half, abs=half / 5)
    assert all(map(math.isnan, mean_interval(differences[:2])))


def test_names_with_dollars_are_not_taken_for_formulas(tmp_path: Path) -> None:
    folders = [make_fold(tmp_path, shift=2), make_fold(tmp_path, trainer="Better")]
    page = comparison_report(folders, names=["$x_{$", "$x_1$"])
    drawn = re.findall(r"<text[^>]*>(.*?)</text>", page)
    assert "$x_{$" in drawn and "$x_1$" in drawn
