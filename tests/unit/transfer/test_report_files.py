"""The files that say what was transferred: complete, consistent with the account, safe to open."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from nnunet_pt.transfer.account import TensorTransfer, TransferPlan, percent
from nnunet_pt.transfer.report_files import html_page, write_report

VOID = {"meta", "br"}


def tensor(
    name: str, action: str, parameters: int, transferred: int, how: str = "", stage: str = "s"
) -> TensorTransfer:
    return TensorTransfer(
        target=name,
        source=None if action == "initial" else name,
        action=action,  # type: ignore[arg-type]
        how=how,
        target_shape=(parameters,),
        source_shape=None if action == "initial" else (parameters,),
        parameters=parameters,
        transferred=transferred,
        part="encoder",
        stage=stage,
    )


@pytest.fixture
def plan() -> TransferPlan:
    return TransferPlan(
        tensors=(
            tensor("a", "copied", 60, 60),
            tensor("b", "adapted", 20, 10, "half"),
            tensor("c", "skipped", 15, 0, "<script>alert(1)</script>"),
            tensor("d", "initial", 5, 0, "not in the file"),
            tensor("e", "copied", 100, 100, stage="t"),
        ),
        path=Path("/some/<b>file</b>.pth"),
        kind="weights",
        sha256="ab" * 32,
        policy="adapt",
        unused=("projector.weight",),
        notes=("a note & more",),
        values={"a": lambda _: torch.ones(60)},
    )


class Structure(HTMLParser):
    """Checks that tags are closed in order; collects what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.widths: list[float] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.references += [str(values[name]) for name in ("src", "href") if name in values]
        style = values.get("style") or ""
        if style.startswith("width:"):
            self.widths.append(float(style[6:-1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_sound_and_needs_nothing_else(plan: TransferPlan) -> None:
    page = Structure()
    page.feed(html_page(plan))
    assert page.open == [] and page.references == []
    assert {"script", "link", "img", "b>file"} & set(page.tags) == set()
    for text in ("/some/<b>file</b>.pth", "<script>alert(1)</script>", "a note & more", "projector.weight", "ab" * 32):
        assert text in page.text
    assert page.widths == [60, 10, 15, 15, 100]  # of an adapted tensor only what comes from the file
    assert page.tags.count("tr") == 2 + 2 + 5


def test_files_hold_the_account(plan: TransferPlan, tmp_path: Path) -> None:
    data, page = write_report(plan, tmp_path / "fold_0")
    assert page.read_text() == html_page(plan)
    content = json.loads(data.read_text())
    assert content == json.loads(json.dumps(plan.to_json()))
    assert (data.name, page.name) == ("transfer_report.json", "transfer_report.html")
    assert content["share"] == pytest.approx(170 / 200) == content["encoder_share"]
    assert [s["stage"] for s in content["stages"]] == ["s", "t"]
    assert content["stages"][0] | {"copied": 1, "adapted": 1, "skipped": 1, "initial": 1} == content["stages"][0]
    assert [t["target"] for t in content["tensors"]] == list("abcde")
    assert content["unused_in_source"] == ["projector.weight"]


def test_text(plan: TransferPlan) -> None:
    lines = str(plan).splitlines()
    assert lines[0] == (
        "3 of 5 tensors come from /some/<b>file</b>.pth (1 of them adapted): 85.0 % of all parameters, 85.0 % of the "
        "encoder"
    )
    assert lines[1] == "a note & more"
    assert [line.split()[0] for line in lines[2:]] == ["stage", "-----", "s", "t", "all"]
    assert lines[4].endswith("half (and 2 more)")


def test_apply_changes_what_the_plan_says(plan: TransferPlan) -> None:
    network = nn.Module()
    network.register_parameter("a", nn.Parameter(torch.zeros(60)))
    plan.apply(network)
    assert torch.equal(network.get_parameter("a"), torch.ones(60))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1e-6, "<0.1 %"), (0.123, "12.3 %"), (0.9999, ">99.9 %"), (1, "100 %")],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text
