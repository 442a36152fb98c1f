"""The parts of the dataset report as HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from nnunet_pt.dataset.cases import listed
from nnunet_pt.report.dataset_cases import CaseFacts
from nnunet_pt.report.dataset_content import DatasetContent
from nnunet_pt.report.dataset_figures import geometry_figure, intensity_figure, volume_figure
from nnunet_pt.report.dataset_outliers import groups
from nnunet_pt.report.outliers import LIMIT, MIN_CASES
from nnunet_pt.report.page import (
    Cell,
    Section,
    details,
    facts,
    gallery,
    heading,
    legend,
    number,
    picture,
    sizes,
    table,
    text,
    warning,
)
from nnunet_pt.report.slices import CT_WINDOW, IGNORED_COLOUR, class_colour, css_colour

MAX_OUTLIERS: Final = 200
FEW_CLASSES: Final = 24


def sections(content: DatasetContent) -> list[Section]:
    """All parts in the order in which they are read."""
    return [
        overview(content),
        findings(content),
        pictures(content),
        geometry(content),
        intensities(content),
        classes(content),
        all_cases(content),
    ]


def overview(content: DatasetContent) -> Section:
    """Key figures, and the most important findings in words."""
    cases, description = content.cases, content.description
    pairs = {
        "Training cases": f"{len(cases):,}",
        "Channels": ", ".join(description.channel_names),
        "Regions" if content.labels.has_regions else "Labels": f"{len(content.class_members)}"
        + (" + ignore" if content.labels.has_ignore_label else ""),
        "Median shape": sizes(np.median([c.shape[1:] if content.is_2d else c.shape for c in cases], axis=0)),
        **({} if content.is_2d else {"Median spacing (mm)": sizes(np.median([c.spacing for c in cases], axis=0), 3)}),
        "Foreground": _percent(float(np.median([_foreground_share(content, c) for c in cases]))),
        "Files": description.file_ending,
        "Read by": content.reader_name,
    }
    orientations = Counter(c.orientation for c in cases if c.orientation)
    if orientations:
        pairs["Orientation"] = ", ".join(name for name, _ in orientations.most_common(3))
    body = facts(pairs)
    body += "".join(warning(note) for note in content.notes)
    if content.problems:
        body += warning(f"{_counted(content.problems)} with problems in their files: see Findings.")
    if len(orientations) > 1:
        counts = ", ".join(f"{name} ({count})" for name, count in orientations.most_common())
        body += warning(
            f"The images lie differently in their arrays: {counts}. nnU-Net does not turn them; if this is not meant, "
            "write them anew in one orientation."
        )
    expected = description.num_training
    if expected is not None and expected != len(cases):
        body += warning(f"dataset.json speaks of {expected} training cases, {len(cases)} could be used.")
    return Section("Overview", body, _in_words(content))


def findings(content: DatasetContent) -> Section:
    """Problems of files, and outliers."""
    body = ""
    if content.problems:
        body += heading("Problems") + table(content.problems, ("case", "what is wrong"))
    body += heading("Outliers") + _outliers(content)
    lead = (
        f"A case is an outlier if the distance from the median is more than {LIMIT:g} times as large as usual "
        "(modified z-score of median and MAD; intensities are those of the foreground). That is not an error, but "
        "worth a look."
    )
    return Section("Findings", body, lead)


def _outliers(content: DatasetContent) -> str:
    if not content.outliers:
        if len(content.cases) < MIN_CASES:
            return text(f"None; but with fewer than {MIN_CASES} cases there is hardly any telling what is usual.")
        return text("None.")
    body = ""
    kinds = groups(content.outliers, len(content.cases))
    for quantity, members in kinds.items():
        low, high = min(o.value for o in members), max(o.value for o in members)
        body += warning(
            f"{len(members)} of {len(content.cases)} cases differ in the {quantity}: {number(low)} to "
            f"{_with_unit(high, members[0].unit)}, the median of all is {number(members[0].median)}. "
            "Are these two kinds of cases, for example of different origin?"
        )
    ordered = sorted(content.outliers, key=lambda o: (o.quantity in kinds, -abs(o.score)))
    rows: list[list[Cell]] = [
        [o.case, o.quantity, _with_unit(o.value, o.unit), _with_unit(o.median, o.unit), o.reason, o.score]
        for o in ordered[:MAX_OUTLIERS]
    ]
    body += table(rows, ("case", "what", "value", "median", "why it is listed", "robust\N{NO-BREAK SPACE}z"))
    if len(rows) < len(ordered):
        body += text(f"The first {len(rows)} of {len(ordered)} are listed.")
    return body


def pictures(content: DatasetContent) -> Section:
    """Middle slices with labels."""
    description = content.description
    names = list(content.class_members)
    colours = [(name, css_colour(class_colour(i))) for i, name in enumerate(names)]
    if content.labels.has_ignore_label:
        colours.append(("not annotated (ignore)", css_colour(IGNORED_COLOUR)))
    key = legend(colours)
    body = key if len(colours) <= FEW_CLASSES else details(f"Colours of {len(colours)} classes", key)
    odd = {outlier.case for outlier in content.outliers}
    body += gallery(
        (
            picture(image, f"{case} (outlier)" if case in odd else case, f"Middle slices of {case} with its labels")
            for case, image in content.pictures.items()
        ),
        wide=not content.is_2d,
    )
    channel = description.channel_names[content.shown_channel]
    window = (
        f" from {CT_WINDOW[0]:g} to {CT_WINDOW[1]:g} HU".replace("-", "\N{MINUS SIGN}")
        if channel.lower() == "ct"
        else ""
    )
    number_shown, number_all = len(content.pictures), len(content.cases)
    if content.is_2d:
        lead = f"{number_shown} of {number_all} images with their labels in colour."
    else:
        lead = (
            f"{number_shown} of {number_all} cases, channel {channel}{window}: three planes through the middle of the "
            "foreground, in their true proportions."
        )
    return Section("Pictures", body, lead)


def geometry(content: DatasetContent) -> Section:
    """Shapes and spacings."""
    body = geometry_figure(content.cases)
    spacings = Counter(tuple(float(f"{v:.3g}") for v in c.spacing) for c in content.cases)
    if content.is_2d:
        lead = "How large the images are."
    elif len(spacings) == 1:
        lead = f"All cases have the spacing {sizes(next(iter(spacings)))} mm."
    else:
        lead = f"There are {len(spacings)} different spacings (to three digits)."
    if content.fingerprint is not None:
        share = content.fingerprint.median_relative_size_after_cropping
        body += text(f"Cropping to what is not zero leaves {share:.0%} of the voxels (median, from the fingerprint).")
    return Section("Shapes and spacings" if not content.is_2d else "Shapes", body, lead)


def intensities(content: DatasetContent) -> Section:
    """Intensities of every channel."""
    names = content.description.channel_names
    body = "".join(intensity_figure(content.cases, index, name) for index, name in enumerate(names))
    fingerprint = content.fingerprint
    if fingerprint is not None:
        rows: list[list[Cell]] = [
            [
                names[int(key)] if key.isdigit() and int(key) < len(names) else key,
                s.mean,
                s.std,
                s.min,
                s.percentile_00_5,
                s.median,
                s.percentile_99_5,
                s.max,
            ]
            for key, s in fingerprint.foreground_intensity_properties_per_channel.items()
        ]
        header = ("channel", "mean", "std", "minimum", "0.5 %", "median", "99.5 %", "maximum")
        body += table(rows, header, caption="Foreground of the whole dataset, from its fingerprint")
    else:
        body += text("There is no fingerprint yet; nnUNetv2_extract_fingerprint makes one.")
    return Section("Intensities", body, "Values of the annotated foreground, case by case.")


def classes(content: DatasetContent) -> Section:
    """Volumes of labels or regions, and where they are missing."""
    volumes, unit = content.volumes(), content.volume_unit
    what = "area" if content.is_2d else "volume"
    rows: list[list[Cell]] = []
    absent: list[int] = []
    for index, (name, members) in enumerate(content.class_members.items()):
        values = volumes[name]
        present = [v for v in values if v > 0]
        without = [c.case for c, v in zip(content.cases, values, strict=True) if not v]
        if without:
            absent.append(index)
        rows.append(
            [
                name,
                ", ".join(map(str, members)),
                len(present),
                float(np.median(present)) if present else None,
                min(present, default=None),
                max(present, default=None),
                listed(without) if 0 < len(without) < len(values) else "all" if without else "",
            ]
        )
    header = ("class", "values", "cases", f"median {what} ({unit})", "smallest", "largest", "missing in")
    body = volume_figure(volumes, unit) + table(rows, header, marked=absent)
    missing = len(absent)
    kind = "regions" if content.labels.has_regions else "labels"
    lead = (
        f"All {kind} occur in all cases."
        if not missing
        else (f"{missing} of {len(rows)} {kind} do not occur in every case.")
    )
    if content.labels.has_ignore_label:
        body += _ignored(content)
    return Section("Regions" if content.labels.has_regions else "Labels", body, lead)


def _ignored(content: DatasetContent) -> str:
    value = content.labels.ignore_label
    shares = [c.voxels.get(value, 0) / max(1, sum(c.voxels.values())) for c in content.cases if value is not None]
    return text(
        f"Label {value} marks what is not annotated: {_percent(float(np.median(shares)))} of a case (median), "
        f"from {_percent(min(shares))} to {_percent(max(shares))}."
    )


def all_cases(content: DatasetContent) -> Section:
    """A table of all cases."""
    flat, names = content.is_2d, content.description.channel_names
    odd = {outlier.case for outlier in content.outliers} | {case for case, _ in content.problems}
    several_orientations = len({c.orientation for c in content.cases}) > 1
    header = ["case", "shape", "voxels" if not flat else "pixels"]
    header += [] if flat else ["spacing (mm)", "size (mm)"]
    header += ["orientation"] if several_orientations else []
    header += ["classes", "foreground (%)", *(f"median {name}" for name in names)]
    rows: list[list[Cell]] = []
    for case in content.cases:
        row: list[Cell] = [case.case, sizes(case.shape[1:] if flat else case.shape), int(np.prod(case.shape))]
        row += [] if flat else [sizes(case.spacing), sizes(case.extent)]
        row += [case.orientation] if several_orientations else []
        row += [
            sum(case.class_voxels(members) > 0 for members in content.class_members.values()),
            round(100 * _foreground_share(content, case), 2),
        ]
        row += [channel.median for channel in case.channels[: len(names)]]
        rows.append(row)
    marked = [index for index, case in enumerate(content.cases) if case.case in odd]
    lead = "Click on a column title to sort. Cases with findings are highlighted." if marked else ""
    return Section("All cases", table(rows, header, marked=marked), lead or "Click on a column title to sort.")


def _in_words(content: DatasetContent) -> str:
    kind = "image" if content.is_2d else "case"
    problems = len({case for case, _ in content.problems})
    outliers = len({outlier.case for outlier in content.outliers})
    state = "No file has problems" if not problems else f"{problems} {kind}s have problems"
    odd = f"{outliers} of {len(content.cases)} {kind}s stand out" if outliers else "no case stands out"
    return f"{state}, and {odd}."


def _counted(problems: Sequence[tuple[str, str]]) -> str:
    number_of_cases = len({case for case, _ in problems})
    return "One case" if number_of_cases == 1 else f"{number_of_cases} cases"


def _foreground_share(content: DatasetContent, case: CaseFacts) -> float:
    return case.class_voxels(content.labels.foreground_labels) / max(1, sum(case.voxels.values()))


def _percent(share: float) -> str:
    return f"{share:.2g} %" if (share := 100 * share) < 1 else f"{share:.1f} %"


def _with_unit(value: float, unit: str) -> str:
    return f"{number(value)}\N{NO-BREAK SPACE}{unit}".strip()
