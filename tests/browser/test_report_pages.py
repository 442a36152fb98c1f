"""Report pages in a real browser: they render, sort, stay offline, and can be read in light and dark and on paper."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit" / "report"))

from fold_folders import make_fold

from nnunet_pt.report.comparison_page import comparison_report
from nnunet_pt.report.dataset_content import DatasetReportOptions
from nnunet_pt.report.dataset_page import dataset_report
from nnunet_pt.report.page import (
    COLOURS,
    MISSING,
    Section,
    details,
    facts,
    figure,
    gallery,
    new_figure,
    page,
    picture,
    table,
)
from nnunet_pt.report.plans_page import plans_report
from nnunet_pt.report.training_page import training_report

pytestmark = pytest.mark.browser

Ask = Callable[..., Mapping[str, Any]]

WHOLE = """
  const visible = (e) => e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().height > 0;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const ids = all("[id]").map((e) => e.id);
  return {
    sections: all("section").filter(visible).length,
    links: all("nav a").map((a) => document.getElementById(a.getAttribute("href").slice(1)) !== null),
    pictures: all("img").map((i) => i.naturalWidth), drawings: all("figure svg").map(visible),
    tables: all("table").length, overflow: document.documentElement.scrollWidth - window.innerWidth,
    twice: ids.filter((id, i) => ids.indexOf(id) !== i),
    loaded: performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:")),
  };
"""
SORT = """
  const table = document.querySelector("table"), seen = [];
  for (const column of %s) {
    table.tHead.rows[0].cells[column].querySelector("button").click();
    seen.push([...table.tBodies[0].rows].map((row) => row.cells[column].textContent));
  }
  return { seen, sorted: [...table.tHead.rows[0].cells].map((c) => c.getAttribute("aria-sort")) };
"""
COLOURS_OF = """
  const colours = (selector) => [...document.querySelectorAll(selector)].map((e) => getComputedStyle(e));
  return {
    page: getComputedStyle(document.body).backgroundColor,
    texts: colours("h1, h2, .lead, p, th, td, dt, dd, figcaption, nav a").map((s) => s.color),
    drawn: colours("figure svg text").map((s) => s.fill),
    marked: colours("tr.marked td").map((s) => [s.color, s.backgroundColor]),
  };
"""


def example() -> str:
    """A page with everything a page can have."""
    figures = []
    for title in ("Loss", "Dice"):
        fig, axes = new_figure(6, 2)
        axes[0, 0].plot([1, 10, 100], [3, 1, 2], color=COLOURS[0], label="loss")
        axes[0, 0].set(xscale="log", xlabel="epoch", title=title)
        axes[0, 0].legend()
        figures.append(figure(fig, "A caption", "A plot"))
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    rows = [["case 10", 2, 0.5], ["case 9", 1000, math.nan], ["Case 1", 30, -1.5], ["case 2", None, math.inf]]
    return page(
        "Title <b>& more</b>",
        "Subtitle",
        [
            Section("One", facts({"Cases": "4"}) + table(rows, ("name", "count", "score"), marked=[1]), lead="Lead."),
            Section("One", "".join(figures)),
            Section("Pictures", gallery([picture(image, "noise", "Noise")] * 3) + details("More", "<p>text</p>")),
        ],
    )


def assert_whole(seen: Mapping[str, Any], *, sections: int, pictures: int, drawings: int) -> None:
    assert seen["sections"] == sections
    assert seen["links"] == [True] * sections
    assert len(seen["pictures"]) == pictures
    assert all(seen["pictures"])
    assert seen["drawings"] == [True] * drawings
    assert seen["overflow"] <= 0
    assert seen["twice"] == []
    assert seen["loaded"] == []


@pytest.mark.parametrize("width", [1400, 500])
def test_everything_on_a_page_is_shown_and_nothing_is_loaded(ask: Ask, width: int) -> None:
    assert_whole(ask(example(), WHOLE, width=width), sections=3, pictures=3, drawings=2)


def test_a_click_sorts_numbers_up_then_down_with_missing_ones_last(ask: Ask) -> None:
    seen = ask(example(), SORT % "[1, 1, 2, 2]")
    assert seen["seen"] == [
        ["2", "30", "1,000", MISSING],
        ["1,000", "30", "2", MISSING],
        ["-1.5", "0.5", "∞", MISSING],
        ["∞", "0.5", "-1.5", MISSING],
    ]
    assert seen["sorted"] == [None, None, "descending"]


def test_words_are_sorted_as_people_count(ask: Ask) -> None:
    assert ask(example(), SORT % "[0]")["seen"] == [["Case 1", "case 2", "case 9", "case 10"]]


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_its_background(ask: Ask, dark: bool) -> None:
    seen = ask(example(), COLOURS_OF, dark=dark)
    assert (_luminance(seen["page"]) < 0.1) == dark
    assert len(seen["drawn"]) > 4
    for colour in {*seen["texts"], *seen["drawn"]}:
        assert _contrast(colour, seen["page"]) > 4.5, colour
    for colour, background in seen["marked"]:
        assert _contrast(colour, background) > 4.5


def test_the_network_is_out_of_reach_even_for_what_somebody_puts_into_a_page(
    tmp_path: Path, run_chromium: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = tmp_path / "page.html"
    path.write_text(example().replace("<main>", '<main><img src="http://localhost:9/picture.png">'), encoding="utf-8")
    done = run_chromium(path, "--dump-dom")
    assert "Content Security Policy" in done.stderr


def test_a_page_can_be_printed(tmp_path: Path, run_chromium: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    rows = [[f"case {i}", i] for i in range(120)]
    path, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    path.write_text(page("Long", "", [Section("Table", table(rows, ("case", "number")))]), encoding="utf-8")
    run_chromium(path, f"--print-to-pdf={printed}")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    assert pages >= 3  # on the screen the table scrolls; on paper all of it is there


def test_dataset_report(ask: Ask, three: Any) -> None:
    html = dataset_report(three.name, three.workspace, DatasetReportOptions(num_processes=0, progress=False))
    assert_whole(ask(html, WHOLE), sections=7, pictures=3, drawings=3)


def test_plans_report(ask: Ask, small: Any, tiny_model_folder: Callable[..., Path]) -> None:
    html = plans_report(tiny_model_folder(small) / "plans.json")
    assert_whole(ask(html, WHOLE), sections=4, pictures=0, drawings=4)


@pytest.mark.parametrize("width", [1400, 500])
def test_training_report(ask: Ask, tmp_path: Path, width: int) -> None:
    html = training_report(make_fold(tmp_path / "training"))
    assert_whole(ask(html, WHOLE, width=width), sections=6, pictures=6, drawings=4)


def test_comparison_report(ask: Ask, tmp_path: Path) -> None:
    html = comparison_report([make_fold(tmp_path / "one"), make_fold(tmp_path / "two")], ["scratch", "fine-tuned"])
    assert_whole(ask(html, WHOLE), sections=5, pictures=0, drawings=4)
    assert ask(html, SORT % "[0, 0]")["seen"] == [["fine-tuned", "scratch"], ["scratch", "fine-tuned"]]


def _channels(colour: str) -> list[float]:
    return [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]


def _luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.1 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, bright = sorted((_luminance(one), _luminance(other)))
    return (bright + 0.05) / (dark + 0.05)
