"""Report pages: one HTML file that needs nothing else, reads well in light, dark and on paper, and sorts its tables.

Everything that goes into a page is made by the functions here, which escape what they are given. The finished page
forbids itself any access to the network.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.files import write_text
from nnunet_pt.report.page_media import encoded, inline_svg, with_own_names
from nnunet_pt.report.page_style import SCRIPT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = str | float | int | None

# Readable on white and on near-black; the first ones also when printed in grey.
COLOURS: Final = ("#3f7fe0", "#e08a1e", "#2fa37c", "#c9527a", "#8b6fd6", "#8a9a2b", "#2f9fc4", "#b0734a")
TIMES: Final = "\N{NARROW NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NARROW NO-BREAK SPACE}"
MISSING: Final = "\N{EN DASH}"
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_FIGURE_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the font of the page
    "svg.hashsalt": "nnunet_pt",  # the same figure is the same file
    "text.parse_math": False,  # names of classes, cases and trainings may have dollars
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page.

    Attributes:
        title: Heading, and entry in the list of contents.
        body: HTML made with the functions of this module.
        lead: One sentence in words that says what the section shows.
    """

    title: str
    body: str
    lead: str = ""

    @property
    def anchor(self) -> str:
        """The title as the target of a link."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """A whole document with a list of contents.

    Args:
        title: What the page is about.
        subtitle: One line below it.
        sections: In the order in which they are read.
    """
    anchors = _distinct(section.anchor for section in sections)
    links = "".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    bodies = "\n".join(
        f'<section id="{anchor}">\n<h2>{escape(section.title)}</h2>\n'
        + (f'<p class="lead">{escape(section.lead)}</p>\n' if section.lead else "")
        + f"{section.body}\n</section>"
        for anchor, section in zip(anchors, sections, strict=True)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{bodies}\n</main>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _distinct(anchors: Iterable[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for anchor in anchors:
        seen[anchor] = seen.get(anchor, 0) + 1
        result.append(anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}")
    return result


def table(
    rows: Sequence[Sequence[Cell]],
    header: Sequence[str],
    *,
    caption: str = "",
    sortable: bool = True,
    marked: Collection[int] = (),
    decimals: int | None = None,
) -> str:
    """Rows below a header; a click on a column title sorts by it.

    Columns that hold only numbers are aligned right and sort as numbers; what is missing sorts to the end.

    Args:
        rows: Cells; None and nan are shown as a dash. A row shorter than the header ends with empty cells.
        header: Column titles.
        caption: Text above the table.
        sortable: Whether columns can be clicked.
        marked: Indices of rows to highlight.
        decimals: Digits after the point of numbers that are not whole; by default as many as :func:`number` shows.
    """
    cells = [[*row, *([None] * (len(header) - len(row)))] for row in rows]
    numeric = [_is_numeric([row[i] for row in cells]) for i in range(len(header))]
    kinds = [' class="number"' if n else "" for n in numeric]
    heads = "".join(
        f'<th scope="col"{kind}>' + (f'<button type="button">{escape(h)}</button>' if sortable else escape(h)) + "</th>"
        for h, kind in zip(header, kinds, strict=True)
    )
    lines = "".join(
        ('<tr class="marked">' if index in marked else "<tr>")
        + "".join(_cell(cell, kind, decimals) for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for index, row in enumerate(cells)
    )
    return (
        f'<div class="scroll"><table{" class=sortable" if sortable else ""}>'
        + (f"<caption>{escape(caption)}</caption>" if caption else "")
        + f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _is_missing(value: Cell) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def _is_numeric(column: Sequence[Cell]) -> bool:
    present = [value for value in column if value is not None]
    return bool(present) and all(isinstance(v, (int, float, np.integer, np.floating)) for v in present)


def _cell(value: Cell, kind: str, decimals: int | None = None) -> str:
    if value is None or _is_missing(value):
        return f'<td{kind} data-value="">{MISSING}</td>'
    if isinstance(value, str):
        return f"<td{kind}>{escape(value)}</td>"
    raw = str(value).replace("inf", "Infinity")  # as the script knows it
    fixed = decimals is not None and isinstance(value, (float, np.floating)) and math.isfinite(value)
    return f'<td{kind} data-value="{raw}">{f"{value:,.{decimals}f}" if fixed else number(value)}</td>'


def number(value: float | int) -> str:
    """A number for people: thousands separated, about four significant digits.

    Args:
        value: The number; nan is a dash.
    """
    if _is_missing(value):
        return MISSING
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "-\N{INFINITY}"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    if 999.9 < abs(value) < 1e15:  # from here on, four digits would be written with an exponent
        return f"{value:,.0f}"
    return f"{value:.4g}"


def sizes(values: Iterable[float | None], digits: int = 4) -> str:
    """Numbers of the axes with a multiplication sign between them.

    Args:
        values: The numbers; None is shown as "own", because each case has its own there.
        digits: How many significant digits are shown.
    """
    return TIMES.join("own" if value is None else number(float(f"{value:.{digits}g}")) for value in values)


def figure(fig: Figure, caption: str, alt: str) -> str:
    """A matplotlib figure as inline SVG. What is drawn in black takes the colour of the text of the page.

    Args:
        fig: The figure; :func:`new_figure` makes one in the style of the pages.
        caption: Text below.
        alt: What there is to see, for people who cannot see it.
    """
    import matplotlib as mpl
    from matplotlib.legend import Legend
    from matplotlib.text import Text

    for box in fig.findobj(Legend):
        box.set_frame_on(False)  # it would be a white box on a dark page
    for words in fig.findobj(Text):
        words.set_parse_math(False)  # those that were made since new_figure
    buffer = io.StringIO()
    with mpl.rc_context(_FIGURE_STYLE):
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = inline_svg(buffer.getvalue(), alt, width_px=round(fig.get_figwidth() * 96))
    return _captioned(drawing, caption)


def new_figure(
    width_inches: float = 9.0, height_inches: float = 3.2, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """An empty figure in the style of the pages, and its axes.

    Args:
        width_inches: Width; text has the size of the page's if the figure is shown at 9 inches.
        height_inches: Height.
        rows: Rows of axes.
        columns: Columns of axes.
        **options: For matplotlib's ``Figure.subplots``, such as ``sharex``.

    Returns:
        The figure and an array of axes (rows, columns).
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as NewFigure

    with mpl.rc_context(_FIGURE_STYLE):
        fig = NewFigure(figsize=(width_inches, height_inches), layout="constrained")
        axes: NDArray[Any] = fig.subplots(rows, columns, squeeze=False, **options)
    return fig, axes


def hide_axes(axes: Axes) -> None:
    """Leave only what is drawn in axes: no ticks, frame or grid."""
    axes.set_axis_off()
    axes.grid(False)


def svg(drawing: str, caption: str) -> str:
    """An ``svg`` element written by hand, as a figure.

    Args:
        drawing: The element; its texts are escaped already.
        caption: Text below.
    """
    return _captioned(with_own_names(drawing), caption)


def picture(rgb_hwc: NDArray[np.uint8], caption: str, alt: str) -> str:
    """An image within the page: as PNG if it has few colours, else as WebP, which keeps pages small.

    Args:
        rgb_hwc: (height, width, 3).
        caption: Text below.
        alt: What there is to see, for people who cannot see it.
    """
    kind, content = encoded(rgb_hwc)
    data = base64.b64encode(content).decode("ascii")
    height, width = rgb_hwc.shape[:2]
    element = f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}" width="{width}" height="{height}">'
    return _captioned(element, caption)


def _captioned(element: str, caption: str) -> str:
    return f"<figure>{element}" + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "") + "</figure>"


def gallery(pictures: Iterable[str], *, wide: bool = False) -> str:
    """Pictures side by side, as many in a row as there is room for.

    Args:
        pictures: Made by :func:`picture`.
        wide: At most two in a row.
    """
    return f'<div class="gallery{" wide" if wide else ""}">{"".join(pictures)}</div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """What colours mean.

    Args:
        entries: Name and CSS colour of each.
    """
    items = "".join(f'<li><i style="background:{escape(colour)}"></i>{escape(name)}</li>' for name, colour in entries)
    return f'<ul class="legend">{items}</ul>'


def facts(pairs: Mapping[str, str]) -> str:
    """Key figures as tiles.

    Args:
        pairs: Name -> value.
    """
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{_breakable(value)}</dd></div>" for name, value in pairs.items())
    return f'<dl class="facts">{tiles}</dl>'


def _breakable(value: str) -> str:
    """Escaped, and long names such as ResidualEncoderUNet may be broken between their words."""
    return "<wbr>".join(map(escape, re.split(r"(?<=[a-z])(?=[A-Z])", value)))


def heading(text_: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(text_)}</h3>"


def text(paragraph: str) -> str:
    """A paragraph."""
    return f"<p>{escape(paragraph)}</p>"


def warning(text: str) -> str:
    """A paragraph that stands out."""
    return f'<p class="warning" role="note">{escape(text)}</p>'


def details(summary: str, body: str) -> str:
    """Something to unfold.

    Args:
        summary: What there is.
        body: HTML.
    """
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def write_page(path: Path, html: str) -> None:
    """Write a page; it appears complete or not at all.

    Raises:
        StorageError: If it cannot be written.
    """
    write_text(path, html)
