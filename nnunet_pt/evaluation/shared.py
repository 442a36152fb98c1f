"""An evaluation whose cases are shared out among processes, see :mod:`nnunet_pt.core.parts`.

The metrics of each case are kept in ``<summary>.parts`` beside the summary until those of all cases are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.executor import Executor
from nnunet_pt.core.files import digest_of, read_json, remove_leftovers, write_json
from nnunet_pt.core.parts import Part, PartNotes, names_in
from nnunet_pt.evaluation.metrics import EvaluationSettings, Pair, compare_pairs, find_pairs, segmentations
from nnunet_pt.evaluation.summary import CaseMetrics, Summary

_VERSION = 1


class SharedEvaluation:
    """One part of an evaluation, or what is left to do of all.

    Args:
        references: Folder of annotations.
        predictions: Folder of segmentations.
        settings: What is compared.
        summary: The file that is written when all parts are there.
        part: The cases of this process.
        chill: Accept references without a prediction.
    """

    def __init__(
        self,
        references: Path,
        predictions: Path,
        settings: EvaluationSettings,
        *,
        summary: Path,
        part: Part,
        chill: bool = False,
    ) -> None:
        self.references = references
        self.predictions = predictions
        self.settings = settings
        self.part = part
        self.chill = chill
        self.folder = summary.with_suffix(".parts")
        self._values = _settings_values(settings)

    def run(self, *, num_processes: int, progress: bool, executor: Executor | None = None) -> Summary | tuple[int, ...]:
        """Compare the cases of this part that are not compared yet.

        Args:
            num_processes: Worker processes; 0 works in this process.
            progress: Show the progress.
            executor: Where the cases are compared instead of in processes of this machine.

        Returns:
            The summary, or the numbers of the parts that are missing; none if other processes did this part, too, and
            put all together meanwhile.

        Raises:
            NnunetError: As for :func:`~nnunet_pt.evaluation.metrics.evaluate_folder`.
            UsageError: If other parts were begun that cannot be put together with this one.
        """
        compare = partial(compare_pairs, num_processes=num_processes, progress=progress, executor=executor)
        ending = self.settings.file_ending
        names = {name.removesuffix(ending) for name in segmentations(self.references, ending)}
        notes = PartNotes(self.folder, self.part, {"settings": self._values, "references": sorted(names)})
        if self.part.is_whole:
            return self._run(notes, names, compare)
        notes.begin()
        try:
            found = self._run(notes, names, compare)
        except StorageError:
            if not notes.overtaken():
                raise
            return ()
        return found if isinstance(found, Summary) or not notes.overtaken() else ()

    def _run(self, notes: PartNotes, names: set[str], compare: Callable[..., object]) -> Summary | tuple[int, ...]:
        remove_leftovers(self.folder)
        self._compare(self._pairs(set(self.part.own(names))), compare)
        if not self.part.is_whole:
            notes.finish()
            # Of a prediction that is not there nobody knows whether it still comes
            if missing := self._missing(names) or (notes.unfinished() if self.chill else ()):
                return missing
        # Now the folders as a whole: a prediction without reference belongs to no part
        pairs = find_pairs(self.references, self.predictions, self.settings, chill=self.chill)
        results = [self._stored(pair) for pair in pairs]
        done = [result for result in results if result is not None]
        if len(done) == len(pairs):
            return Summary.of(done)
        absent = {pair.case for pair, result in zip(pairs, results, strict=True) if result is None}
        return self.part.missing(names, lambda name: name not in absent)

    def remove(self) -> None:
        """Remove what was kept of the cases."""
        PartNotes(self.folder, self.part, {}).remove()

    def _pairs(self, own: set[str]) -> list[Pair]:
        if self.part.is_whole:
            return find_pairs(self.references, self.predictions, self.settings, chill=self.chill)
        if self.chill:
            own &= self._predicted()
        return find_pairs(self.references, self.predictions, self.settings, cases=own) if own else []

    def _compare(self, pairs: Sequence[Pair], compare: Callable[..., object]) -> None:
        todo = {pair.case: (pair, _stamp(pair, self._values)) for pair in pairs if self._stored(pair) is None}
        compare(
            [pair for pair, _ in todo.values()],
            on_result=lambda case, result: write_json(self._file(case), _to_json(result, todo[case][1])),
        )

    def _missing(self, names: set[str]) -> tuple[int, ...]:
        """Parts that are missing by the names of files, which is quick."""
        there = names_in(self.folder)
        expected = names & self._predicted() if self.chill else names
        absent = {name for name in expected if self._file(name).name not in there}
        return self.part.missing(names, lambda name: name not in absent)

    def _predicted(self) -> set[str]:
        ending = self.settings.file_ending
        return {name.removesuffix(ending) for name in segmentations(self.predictions, ending)}

    def _file(self, case: str) -> Path:
        return self.folder / f"case-{case}.json"

    def _stored(self, pair: Pair) -> CaseMetrics | None:
        """Metrics that were computed before from the same files in the same way."""
        path = self._file(pair.case)
        try:
            data = read_json(path)
        except StorageError:
            if path.exists():
                raise
            return None
        if data["stamp"] != _stamp(pair, self._values):
            return None
        metrics = {tuple(k) if isinstance(k, list) else k: values for k, values in data["metrics"]}
        return CaseMetrics(
            reference_file=pair.reference,
            prediction_file=pair.prediction,
            metrics=metrics,
            remarks=tuple(data["remarks"]),
        )


def _settings_values(settings: EvaluationSettings) -> dict[str, Any]:
    return {"version": _VERSION, **asdict(settings)}


def _to_json(result: CaseMetrics, stamp: str) -> dict[str, Any]:
    metrics = [[label, dict(values)] for label, values in result.metrics.items()]
    return {"stamp": stamp, "metrics": metrics, "remarks": list(result.remarks)}


def _stamp(pair: Pair, values: Mapping[str, Any]) -> str:
    """Changes with the files and with what is compared."""
    status = [path.stat() for path in (pair.reference, pair.prediction)]
    return digest_of([values, [(s.st_size, s.st_mtime_ns) for s in status]])
