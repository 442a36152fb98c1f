from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nnunet_pt.core.errors import StorageError
from nnunet_pt.report.page import (
    COLOURS,
    MISSING,
    Section,
    details,
    facts,
    figure,
    gallery,
    heading,
    legend,
    new_figure,
    number,
    page,
    picture,
    sizes,
    svg,
    table,
    text,
    warning,
    write_page,
)

NASTY = '<script>alert("1")</script>&'
VOID = {"meta", "link", "img", "wbr", "br", "path", "rect", "use", "image"}


class Nesting(HTMLParser):
    """Notes tags that are not closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def drawing(title: str = "Loss") -> str:
    fig, axes = new_figure(4, 2)
    axes[0, 0].plot([1, 10, 100], [3, 1, 2], "o-", color=COLOURS[0], label="loss")
    axes[0, 0].set(xscale="log", title=title)
    axes[0, 0].legend()
    return figure(fig, "caption", "alt")


def test_everything_is_escaped() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    body = (
        table([[NASTY]], [NASTY], caption=NASTY)
        + facts({NASTY: NASTY})
        + text(NASTY)
        + warning(NASTY)
        + heading(NASTY)
        + legend([(NASTY, NASTY)])
        + details(NASTY, "")
        + picture(image, NASTY, NASTY)
    )
    html = page(NASTY, NASTY, [Section(NASTY, body, NASTY)])
    assert "alert(" in html
    assert "<script>alert" not in html
    assert '("1")' not in html  # nor does anything end an attribute early


def test_a_page_is_well_nested_and_refers_to_nothing_outside() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    sections = [
        Section("One", table([["a", 1]], ("x", "y")) + drawing(), "lead"),
        Section("Two", gallery([picture(image, "a", "b")]) + details("more", text("x")) + facts({"aB": "cDeF"})),
    ]
    html = page("Title", "Subtitle", sections)
    parser = Nesting()
    parser.feed(html)
    assert (parser.open, parser.wrong) == ([], [])
    links = re.findall(r"(?:src|href)=\"([^\"#]+)\"", html)
    assert all(link.startswith("data:") for link in links)
    assert set(re.findall(r"https?://[^\"\s<]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "default-src 'none'" in html


def test_sections_of_one_title_can_be_told_apart() -> None:
    html = page("t", "", [Section("Same title!", "a"), Section("Same title!", "b"), Section("\N{SNOWMAN}", "c")])
    assert re.findall(r'<section id="([^"]+)"', html) == ["same-title", "same-title-2", "section"]
    assert re.findall(r'href="#([^"]+)"', html) == ["same-title", "same-title-2", "section"]


def test_a_table_tells_numbers_from_words() -> None:
    html = table([["a", 1, 2.5, "x"], ["b", None, float("nan"), None], ["c", np.int64(7), np.float32(1)]], list("wxyz"))
    heads = re.findall(r'<th scope="col"( class="number")?>', html)
    assert [bool(h) for h in heads] == [False, True, True, False]
    assert html.count(f'data-value="">{MISSING}<') == 4
    assert '<td class="number" data-value="7">7</td>' in html
    assert "<tr>" in html
    assert 'class="marked"' not in html
    assert table([["a"], ["b"]], ["x"], marked=[1]).index('class="marked"') > 0
    assert "<button" not in table([[1]], ["x"], sortable=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1234567, "1,234,567"),
        (0, "0"),
        (2.0, "2"),
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (-1207.0, "-1,207"),
        (float("nan"), MISSING),
        (float("inf"), "\N{INFINITY}"),
        (1e20, "1e+20"),
        (999.95, "1,000"),
    ],
)
def test_numbers(value: float, expected: str) -> None:
    assert number(value) == expected


def test_sizes() -> None:
    assert [part.strip() for part in sizes((None, 1.0, 0.33333)).split("\N{MULTIPLICATION SIGN}")] == [
        "own",
        "1",
        "0.3333",
    ]


def test_a_figure_takes_the_colours_of_the_page_and_is_the_same_every_time() -> None:
    first = drawing()
    assert "currentColor" in first
    assert "#000000" not in first
    assert "#ffffff" not in first
    assert COLOURS[0] in first
    assert "<metadata>" not in first
    assert 'aria-label="alt"' in first
    assert first == drawing()


def test_figures_do_not_share_the_names_of_their_parts() -> None:
    names = [set(re.findall(r' id="([^"]+)"', html)) for html in (drawing("one"), drawing("two"))]
    assert names[0]
    assert not names[0] & names[1]
    for html, known in zip((drawing("one"), drawing("two")), names, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html)) == known
    mine = '<svg><defs><marker id="a"/></defs><path marker-end="url(#a)"/></svg>'
    assert re.search(r'id="(f\w+-a)".*url\(#\1\)', svg(mine, "caption"))


def shown_by(html: str) -> np.ndarray:
    """The pixels of a picture."""
    from PIL import Image

    found = re.search(r"data:image/(png|webp);base64,([^\"]+)", html)
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[2]))).convert("RGB")).astype(int)


def test_small_structures_keep_their_colour() -> None:
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 1)).astype(np.uint8).repeat(3, axis=2)
    image[100:104, 100:104] = (46, 204, 113)
    red, green, blue = shown_by(picture(image, "", ""))[101:103, 101:103].mean(axis=(0, 1))
    assert green > red + 60
    assert green > blue + 30


@pytest.mark.parametrize("webp", [False, True])
def test_few_colours_and_machines_without_webp_get_png(webp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda _name: webp)
    few = np.arange(200, dtype=np.uint8).reshape(10, 20, 1).repeat(3, axis=2)
    assert np.array_equal(shown_by(picture(few, "", "")), few)
    many = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    assert np.array_equal(shown_by(picture(many, "", "")), many) != webp


@pytest.mark.parametrize("noisy", [False, True])
def test_a_picture_looks_like_the_image(noisy: bool) -> None:

    shades = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack([np.tile(shades, (48, 1)), np.tile(shades[::-1], (48, 1)), np.full((48, 64), 90, np.uint8)], -1)
    if noisy:
        image = (image + np.random.default_rng(0).integers(0, 40, image.shape)).clip(0, 255).astype(np.uint8)
    html = picture(image, "caption", "alt")
    shown = shown_by(html)
    assert shown.shape == image.shape
    assert np.abs(shown - image).mean() < (12 if noisy else 5)
    assert 'width="64" height="48"' in html


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "page.html", "ä")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == "ä"
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_page(tmp_path / "file" / "page.html", "x")


def test_numbers_of_a_table_may_have_the_same_digits() -> None:
    html = table([["a", 0.75, 3], ["b", float("nan"), 4], ["c", 1e-5, 5]], ["case", "Dice", "cases"], decimals=4)
    assert re.findall(r"<td[^>]*>([^<]*)</td>", html)[1::3] == ["0.7500", MISSING, "0.0000"]
    assert 'data-value="1e-05"' in html and ">3<" in html


def test_dollars_in_a_figure_are_not_taken_for_formulas() -> None:
    fig, axes = new_figure(3.0, 2.0)
    axes[0, 0].plot([0, 1], [0, 1], label="$a_{$")
    axes[0, 0].set_yticks([0, 1], ["$x_1$", "b"])
    axes[0, 0].legend()
    drawn = re.findall(r"<text[^>]*>(.*?)</text>", figure(fig, "", ""))
    assert "$a_{$" in drawn and "$x_1$" in drawn
