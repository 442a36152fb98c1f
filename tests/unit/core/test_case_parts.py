"""Which case belongs to which part, and parts that do not belong together."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.core.errors import StorageError, UsageError
from nnunet_pt.core.parts import WHOLE, Part, PartNotes, names_in, own_file_name, retried

CASES = ["c", "a", "e", "b", "d"]


def test_every_nth_case_by_name_belongs_to_a_part() -> None:
    assert Part(number=0, total=2).own(CASES) == ["a", "c", "e"]
    assert Part(number=1, total=2).own(CASES) == ["b", "d"]
    assert WHOLE.own(CASES) == sorted(CASES) and WHOLE.is_whole
    assert Part(number=6, total=7).own(CASES) == []


@given(st.sets(st.text(max_size=4)), st.integers(1, 9))
def test_each_case_belongs_to_one_part(cases: set[str], total: int) -> None:
    parts = [Part(number=number, total=total) for number in range(total)]
    assert sorted(case for part in parts for case in part.own(cases)) == sorted(cases)
    for part in parts:
        done = cases - set(part.own(cases))
        assert parts[0].missing(cases, done.__contains__) == ((part.number,) if part.own(cases) else ())


@pytest.mark.parametrize(("number", "total"), [(3, 3), (-1, 3), (0, 0), (0, -2), (7, 3)])
def test_parts_that_do_not_exist(number: int, total: int) -> None:
    with pytest.raises(UsageError, match=f"-part_id {number} with -num_parts {total}"):
        Part(number=number, total=total)


def test_a_part_does_not_start_over() -> None:
    WHOLE.require_no_clean(True)
    Part(number=0, total=2).require_no_clean(False)
    with pytest.raises(UsageError, match="what the others did"):
        Part(number=0, total=2).require_no_clean(True)


def notes(folder: Path, number: int, total: int = 3, **settings: object) -> PartNotes:
    return PartNotes(folder / "x.parts", Part(number=number, total=total), settings or {"plans": [1, 2.5]})


def test_notes_say_who_did_what(tmp_path: Path) -> None:
    for number in (2, 0):
        notes(tmp_path, number).begin()
    notes(tmp_path, 2).finish()
    assert sorted(p.name for p in (tmp_path / "x.parts").iterdir()) == [
        *("part-0-of-3.begun.json", "part-2-of-3.begun.json", "part-2-of-3.finished.json"),
    ]
    note = json.loads((tmp_path / "x.parts" / "part-2-of-3.finished.json").read_text())
    assert note.keys() == {"part_id", "num_parts", "settings", "host", "pid", "time"}
    notes(tmp_path, 0).remove()
    assert list(tmp_path.iterdir()) == []
    notes(tmp_path, 0).remove()


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    notes(tmp_path, 0).begin()
    notes(tmp_path, 0).begin()  # done again
    with pytest.raises(UsageError, match=r"(?s)Part 1 of 4 cannot.*part 0 of 3, begun .* on .*without -num_parts"):
        notes(tmp_path, 1, total=4).begin()
    with pytest.raises(UsageError, match=r"part 0 of 3, begun .* with other cases and plans"):
        notes(tmp_path, 1, plans=[1], cases=1).begin()
    assert len(list((tmp_path / "x.parts").iterdir())) == 1  # who was refused leaves nothing
    notes(tmp_path, 1).begin()
    (tmp_path / "x.parts" / "part-3-of-4.begun.json").write_text(
        json.dumps({"part_id": 3, "num_parts": 4, "settings": {}, "time": "t", "host": "h"})
    )
    with pytest.raises(UsageError, match="part 3 of 4, begun t on h"):  # both began at the same moment
        notes(tmp_path, 1).finish()


def test_unreadable_notes_are_named(tmp_path: Path) -> None:
    notes(tmp_path, 0).begin()
    (tmp_path / "x.parts" / "part-0-of-3.begun.json").write_text("{")
    with pytest.raises(StorageError, match=r"part-0-of-3.begun.json"):
        notes(tmp_path, 1).begin()


def test_files_of_one_process() -> None:
    names = {own_file_name("cases", ".jsonl") for _ in range(9)}
    assert len(names) == 9 and all(n.startswith("cases-") and n.endswith(".jsonl") for n in names)


def test_folder_that_others_remove(tmp_path: Path) -> None:
    mine = notes(tmp_path, 0)
    mine.begin()
    assert not mine.overtaken()
    notes(tmp_path, 1).remove()
    assert mine.overtaken()
    mine.finish()
    assert mine.overtaken() and list(tmp_path.iterdir()) == []  # nobody else is there: nothing stays
    notes(tmp_path, 1).begin()
    assert mine.overtaken() and names_in(mine.folder) == {"part-1-of-3.begun.json"}
    calls: list[int] = []

    def write() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise StorageError("gone") from FileNotFoundError()

    def always_gone() -> None:
        raise StorageError("gone") from FileNotFoundError()

    def full() -> None:
        full_calls.append(1)
        raise StorageError("no space left") from OSError(errno.ENOSPC, "no space")

    full_calls: list[int] = []
    retried(write, mine.folder)
    with pytest.raises(StorageError, match="gone"):
        retried(always_gone, mine.folder)
    with pytest.raises(StorageError, match="no space left"):
        retried(full, mine.folder)
    assert len(full_calls) == 1  # what fails for another reason is not tried again
