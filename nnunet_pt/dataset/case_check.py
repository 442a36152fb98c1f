"""Everything that can be wrong with the files of one case. Runs in a worker process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError, StorageError
from nnunet_pt.core.files import digest_of, read_json, write_json
from nnunet_pt.core.parts import retried
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import Case
from nnunet_pt.dataset.images.base import FloatImage, ImageReaderWriter, rounded
from nnunet_pt.dataset.images.hidden_damage import scan_file
from nnunet_pt.dataset.images.registry import reader_writer_by_name

LARGEST_COUNTED_LABEL = 1 << 16
MAX_VALUES_SHOWN = 5
_VERSION = 1  # of what is checked


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCheck:
    """What to check.

    Attributes:
        case: The files.
        reader_name: How to read them.
        num_channels: Channels in dataset.json.
        labels: Allowed label values, with background and ignore label.
        ignore_label: The ignore label, if there is one.
        folder: Where the result is kept, until all cases have been checked; nowhere if None.
    """

    case: Case
    reader_name: str
    num_channels: int
    labels: tuple[int, ...]
    ignore_label: int | None
    folder: Path | None = None

    @property
    def file_name(self) -> str:
        """Name of the file with the result."""
        return f"{self.case.identifier}.json"

    def stamp(self) -> str:
        """Changes with everything that the result depends on."""
        settings = (self.reader_name, self.num_channels, self.labels, self.ignore_label)
        return digest_of([_VERSION, *settings, self.case.state()])


@dataclass(slots=True, kw_only=True)
class CaseResult:
    """What was found.

    Attributes:
        findings: Pairs of the kind of finding and the details.
        digests: For each image file that is not constant, a digest of its shape and values.
        labels: Label values that occur.
    """

    findings: list[tuple[str, str]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    labels: tuple[int, ...] = ()

    def add(self, kind: str, text: str) -> None:
        """Note a finding."""
        self.findings.append((kind, text))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Where the voxels of a file are."""

    path: Path
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    geometry: dict[str, tuple[float, ...]]


def check_case(check: CaseCheck) -> CaseResult:
    """Read the files of a case, one at a time, and note what is wrong with each and with their combination."""
    if check.folder is None:
        return _check(check)
    stamp = check.stamp()  # first: files may change meanwhile
    result = _check(check)
    path = check.folder / check.file_name
    retried(lambda: write_json(path, {"stamp": stamp, **asdict(result)}), check.folder)
    return result


def kept_result(check: CaseCheck) -> CaseResult | None:
    """What :func:`check_case` has kept of a case; None if there is nothing, or the files are others now."""
    if check.folder is None:
        return None
    try:
        kept = read_json(check.folder / check.file_name)
        if kept["stamp"] != check.stamp():
            return None
        findings = [(kind, text) for kind, text in kept["findings"]]
        return CaseResult(findings=findings, digests=dict(kept["digests"]), labels=tuple(kept["labels"]))
    except (StorageError, KeyError, TypeError, ValueError):  # missing, or damaged: the case is checked again
        return None


def _check(check: CaseCheck) -> CaseResult:
    result = CaseResult()
    reader = reader_writer_by_name(check.reader_name)
    grids: list[_Grid] = []
    num_channels = 0
    for path in check.case.images:
        image = _read(reader, path, result, grids, what="image")
        if image is not None:
            num_channels += image.shape[0]
            _check_image(image, path, result)
        del image  # before the next one is read
    if len(grids) == len(check.case.images) and num_channels != check.num_channels:
        result.add("channel_count", f"{counted(num_channels, 'channel')} instead of {check.num_channels}")
    _compare(grids, result, "channel_mismatch")
    if check.case.label is not None:
        label_grid: list[_Grid] = []
        segmentation = _read(reader, check.case.label, result, label_grid, what="label")
        if segmentation is not None:
            _compare(grids[:1] + label_grid, result, "label_mismatch")
            _check_segmentation(segmentation, check, result)
    return result


def _read(
    reader: ImageReaderWriter, path: Path, result: CaseResult, grids: list[_Grid], *, what: str
) -> FloatImage | None:
    """Read a file and note its grid; if it cannot be read, or holds no usable values, note that and give nothing."""
    try:
        image, properties = reader.read_images([path]) if what == "image" else reader.read_segmentation(path)
        geometry = dict(reader.read_header(path).geometry)
        hidden = scan_file(path)
    except ImageError as error:
        details = f": {error.found}" if error.found is not None else ""
        result.add("unreadable", f"{error.problem.rstrip('.')}{details}")
        return None
    if image.size == 0:
        result.add("unreadable", f"{path.name} has no voxels: shape {image.shape}")
        return None
    grids.append(
        _Grid(path=path, shape=image.shape[1:], spacing=tuple(map(float, properties["spacing"])), geometry=geometry)
    )
    # NaN and infinity show in the extremes, so no mask of the whole image is needed.
    if not (np.isfinite(image.min()) and np.isfinite(image.max())):
        hidden = int(np.isnan(image).sum()), int(np.isinf(image).sum())
    for kind, count in zip(("nan", "infinite"), hidden, strict=True):
        if count:
            result.add(f"{kind}_{what}", f"{path.name}: {count} of {image.size} voxels")
    return image


def _check_image(image: FloatImage, path: Path, result: CaseResult) -> None:
    constant = False
    for channel, values in enumerate(image):
        low, high = values.min(), values.max()
        if low == high:
            constant = True
            where = path.name if image.shape[0] == 1 else f"{path.name}, channel {channel}"
            result.add("constant_image", f"{where} is {low:g} everywhere")
    if not constant:
        result.digests[path.name] = _digest(image)


def _check_segmentation(segmentation: FloatImage, check: CaseCheck, result: CaseResult) -> None:
    name = check.case.label.name if check.case.label is not None else ""
    if not (np.isfinite(segmentation.min()) and np.isfinite(segmentation.max())):
        return
    values, counts = count_values(segmentation)
    whole = values == np.round(values)
    if not whole.all():
        result.add("non_integer_label", f"{name} holds {_listed(values[~whole], counts[~whole])}")
    values, counts = values[whole].astype(np.int64), counts[whole]
    unexpected = ~np.isin(values, check.labels)
    if unexpected.any():
        result.add("unexpected_label", f"{name} holds {_listed(values[unexpected], counts[unexpected])}")
    result.labels = tuple(int(v) for v in values)
    foreground = set(result.labels) - {0, check.ignore_label}
    if not foreground and whole.all():
        result.add("empty_label", f"{name} holds nothing but {_listed(values, counts)}")


def count_values(segmentation: FloatImage) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distinct values and how often they occur, without sorting millions of voxels if they are label values."""
    if segmentation.min() >= 0 and segmentation.max() < LARGEST_COUNTED_LABEL:
        labels = segmentation.astype(np.uint16)
        if np.array_equal(labels, segmentation):
            counts = np.bincount(labels.ravel())
            values = np.flatnonzero(counts)
            return values, counts[values]
    return np.unique(segmentation, return_counts=True)


def _compare(grids: Sequence[_Grid], result: CaseResult, kind: str) -> None:
    for grid in grids[1:]:
        first, name = grids[0], f"{grid.path.name} and {grids[0].path.name}"
        if grid.shape != first.shape:
            result.add(kind, f"the shapes of {name} differ: {grid.shape} and {first.shape}")
        if not np.allclose(grid.spacing, first.spacing):
            result.add(kind, f"the spacings of {name} differ: {rounded(grid.spacing)} and {rounded(first.spacing)}")
        for what, values in grid.geometry.items():
            other = first.geometry.get(what, ())
            if len(values) != len(other) or not np.allclose(values, other):
                result.add("orientation", f"{what} of {name} differ: {rounded(values)} and {rounded(other)}")


def _digest(image: FloatImage) -> str:
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(memoryview(np.ascontiguousarray(image)).cast("B"))
    return digest.hexdigest()


def _listed(values: NDArray[Any], counts: NDArray[Any]) -> str:
    shown = ", ".join(
        f"{value:g} ({counted(count, 'voxel')})"
        for value, count in zip(values[:MAX_VALUES_SHOWN], counts, strict=False)
    )
    rest = len(values) - MAX_VALUES_SHOWN
    return shown + (f" and {counted(rest, 'other value')}" if rest > 0 else "")
