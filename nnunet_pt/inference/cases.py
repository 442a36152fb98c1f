"""Which images are to be predicted: finding the cases, this process's share of them, and what is done already."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.core.files import storage_errors
from nnunet_pt.core.parts import Part
from nnunet_pt.dataset.cases import MAX_LISTED, Case, Discovery, discover_images, files_in, listed, shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where predictions go, and when they count as made.

    Attributes:
        folder: Holds the predictions.
        file_ending: Of the segmentations, with the dot.
        probabilities: Whether probabilities are saved, too.
    """

    folder: Path
    file_ending: str
    probabilities: bool = False

    def segmentation(self, case: str) -> Path:
        """The predicted segmentation of a case."""
        return self.folder / f"{case}{self.file_ending}"

    def exists(self, case: str) -> bool:
        """Whether everything that is wanted of a case is there."""
        return self.segmentation(case).is_file() and (not self.probabilities or (self.folder / f"{case}.npz").is_file())


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The cases of this process.

    Attributes:
        cases: To be predicted, in this order.
        unusable: Cases that lack a file: name to reason.
        finished: Cases that are not predicted again.
        ignored: Images that belong to no case.
    """

    cases: tuple[Case, ...]
    unusable: Mapping[str, str] = field(default_factory=dict)
    finished: tuple[str, ...] = ()
    ignored: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """Number of cases, whatever becomes of them."""
        return len(self.cases) + len(self.unusable) + len(self.finished)


def find_work(
    inputs: Sequence[Path],
    outputs: Outputs,
    *,
    num_channels: int,
    num_parts: int = 1,
    part_id: int = 0,
    skip_existing: bool = False,
    outdated: Collection[str] = (),
) -> Work:
    """The cases of this process.

    As in nnU-Net, all cases are sorted by name and every ``num_parts``-th belongs to a part, before those are left out
    that exist already: the parts do not depend on when they are started.

    Args:
        inputs: Folders of images, or images; ``<case>_<4-digit channel><ending>``.
        outputs: Where predictions go.
        num_channels: Channels that the model takes.
        num_parts: Number of processes that share the cases.
        part_id: Number of this process.
        skip_existing: Leave out cases whose prediction exists.
        outdated: Cases whose prediction does not count, because it is of an earlier run.

    Raises:
        PredictionError: If there is no case, or none is complete.
        StorageError: If a folder cannot be read.
    """
    found = _discover(inputs, outputs.file_ending, num_channels)
    complete = {case.identifier: case for case in found.cases}
    unusable = dict(found.missing)
    for name, case in list(complete.items()):
        if 1 < len(case.images) < num_channels:
            del complete[name]
            unusable[name] = f"{len(case.images)} images for the {num_channels} channels of the model"
    if not complete:
        raise _nothing_usable(inputs, outputs.file_ending, unusable, found.foreign)
    own = Part(number=part_id, total=num_parts).own({*complete, *unusable})
    finished = {
        name for name in own if skip_existing and name in complete and name not in outdated and outputs.exists(name)
    }
    return Work(
        cases=tuple(complete[name] for name in own if name in complete and name not in finished),
        unusable={name: unusable[name] for name in own if name in unusable},
        finished=tuple(name for name in own if name in finished),
        ignored=found.foreign,
    )


def _discover(inputs: Sequence[Path], ending: str, num_channels: int) -> Discovery:
    return discover_images(_files(inputs), ending, num_channels)


def _files(inputs: Sequence[Path]) -> list[Path]:
    """All files that are named, or are in folders that are named."""
    by_name: dict[str, Path] = {}
    for given in inputs:
        with storage_errors(given):
            if given.is_dir():
                found = files_in(given)
            elif given.exists():
                found = [given]
            else:
                raise PredictionError(
                    f"{given} does not exist.", expected="a folder with images, or an image", remedy="correct -i"
                )
        for path in found:
            other = by_name.setdefault(path.name, path)
            if other.resolve() != path.resolve():
                raise PredictionError(
                    f"Two images are called {path.name}; their predictions would have the same name, too.",
                    found=f"{other} and {path}",
                    remedy="predict them into different folders",
                )
    return [by_name[name] for name in sorted(by_name)]


def _nothing_usable(
    inputs: Sequence[Path], ending: str, unusable: Mapping[str, str], unnumbered: Sequence[Path]
) -> PredictionError:
    where = " ".join(map(str, inputs))
    expected = f"images called <case>_0000{ending}, and <case>_0001{ending} and so on for further channels"
    if unusable:
        lines = shortened(f"  - case {name}: {reason}" for name, reason in sorted(unusable.items()))
        return PredictionError(
            f"No case in {where} has all channels that the model takes:\n{lines}",
            expected=expected,
            remedy="add the missing files, or use a model that was trained with these channels",
        )
    if unnumbered:
        names = [path.name for path in unnumbered]
        example = names[0].removesuffix(ending)
        return PredictionError(
            f"The names of the images in {where} lack the number of the channel.",
            found=listed(names),
            expected=expected,
            remedy=f"rename them: {names[0]} -> {example}_0000{ending}",
        )
    endings = sorted({"".join(path.suffixes[-2:]) or path.name for path in _files(inputs)})
    return PredictionError(
        f"There are no images in {where} that this model can take.",
        found=f"files ending with {', '.join(endings[:MAX_LISTED])}" if endings else "no files",
        expected=expected,
        remedy=f"convert the images to {ending}; the model was trained with this format"
        if endings
        else "put the images there, or correct -i",
    )
