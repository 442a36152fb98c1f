"""The manifest remembers what is finished, and is itself never trusted too far."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.preprocessing.manifest import CaseRecord, FileStamp, Manifest, stamp_inputs
from nnunet_pt.preprocessing.store import case_files


def touch(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


@pytest.fixture
def raw(tmp_path: Path) -> tuple[Path, ...]:
    paths = tuple(tmp_path / "raw" / n for n in ("case_0000.nii.gz", "case_0001.nii.gz", "case.nii.gz"))
    paths[0].parent.mkdir()
    for index, path in enumerate(paths):
        path.write_bytes(b"content %d" % index)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plans_3d"
    folder.mkdir()
    for name in case_files("case"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def record(raw: tuple[Path, ...], folder: Path) -> CaseRecord:
    return make_record("case", raw, folder)


def make_record(case: str, raw: tuple[Path, ...], folder: Path) -> CaseRecord:
    for name in case_files(case):
        (folder / name).write_text(name)
    outputs = {name: FileStamp.of(folder / name) for name in case_files(case)}
    return CaseRecord(case=case, settings="s", inputs=stamp_inputs(raw), outputs=outputs)


def test_survives_writing_and_reading(record: CaseRecord, folder: Path) -> None:
    Manifest(folder).add(record)
    assert Manifest(folder).records == {"case": record}
    assert not [p for p in folder.iterdir() if p.name not in case_files("case")]  # nothing foreign in the data folder
    assert CaseRecord.from_line(record.to_line()) == record


def test_unchanged_case_is_current_and_intact(record: CaseRecord, raw: tuple[Path, ...], folder: Path) -> None:
    assert record.is_current("s", raw)
    assert record.is_intact(folder) and record.is_intact(folder, read=True)


def test_other_settings_or_files(record: CaseRecord, raw: tuple[Path, ...]) -> None:
    assert not record.is_current("t", raw)
    assert not record.is_current("s", raw[:2])
    assert not record.is_current("s", (raw[1], raw[0], raw[2]))
    renamed = raw[2].rename(raw[2].with_name("other.nii.gz"))
    assert not record.is_current("s", (*raw[:2], renamed))
    assert not record.is_current("s", raw)


def test_another_time_but_the_same_content_is_current(record: CaseRecord, raw: tuple[Path, ...], folder: Path) -> None:
    touch(raw[1], 1_000_000)
    touch(folder / "case.pkl", 1_000_000)
    assert record.is_current("s", raw) and record.is_intact(folder)


def test_same_size_but_another_content_is_noticed(record: CaseRecord, raw: tuple[Path, ...]) -> None:
    raw[1].write_bytes(raw[1].read_bytes()[::-1])
    touch(raw[1], 1_000_000)
    assert not record.is_current("s", raw)


def test_damage_that_kept_the_time_is_found_only_by_reading(record: CaseRecord, folder: Path) -> None:
    path = folder / "case_seg.b2nd"
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert record.is_intact(folder)
    assert not record.is_intact(folder, read=True)


@pytest.mark.parametrize("name", case_files("case"))
def test_missing_and_shortened_files(record: CaseRecord, folder: Path, name: str) -> None:
    (folder / name).write_text("")
    assert not record.is_intact(folder)
    (folder / name).unlink()
    assert not record.is_intact(folder)


def test_record_of_too_few_files_is_not_intact(record: CaseRecord, folder: Path) -> None:
    for name in case_files("case"):
        outputs = {n: s for n, s in record.outputs.items() if n != name}
        assert not CaseRecord(case="case", settings="s", inputs=record.inputs, outputs=outputs).is_intact(folder)


def test_moved_dataset_is_still_current(
    record: CaseRecord, raw: tuple[Path, ...], folder: Path, tmp_path: Path
) -> None:
    Manifest(folder).add(record)
    (tmp_path / "elsewhere").mkdir()
    raw[0].parent.rename(tmp_path / "elsewhere" / "raw")
    for path in (folder, folder.with_name("plans_3d.manifest.jsonl")):
        path.rename(tmp_path / "elsewhere" / path.name)
    moved = tmp_path / "elsewhere" / "plans_3d"
    record = Manifest(moved).records["case"]
    assert record.is_current("s", tuple(tmp_path / "elsewhere" / "raw" / p.name for p in raw))
    assert record.is_intact(moved)


def test_last_line_that_was_cut_off_costs_only_its_case(raw: tuple[Path, ...], folder: Path) -> None:
    manifest = Manifest(folder)
    records = [make_record(case, raw, folder) for case in ("a", "b", "c")]
    for record in records:
        manifest.add(record)
    whole = manifest.path.read_bytes()
    for length in range(len(whole) - len(records[2].to_line()) + 1, len(whole) - 1, 7):
        manifest.path.write_bytes(whole[:length])
        assert list(Manifest(folder).records) == ["a", "b"]
    manifest.path.write_bytes(whole[:-1])  # only the end of the line is missing: the record is complete
    assert list(Manifest(folder).records) == ["a", "b", "c"]


def test_later_lines_replace_earlier_ones(record: CaseRecord, folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.add(record)
    newer = CaseRecord(case="case", settings="t", inputs=record.inputs, outputs=record.outputs)
    manifest.add(newer)
    assert len(manifest.path.read_text().splitlines()) == 2
    assert Manifest(folder).records == {"case": newer}


def test_keep_forgets_the_others_and_tidies_up(raw: tuple[Path, ...], folder: Path) -> None:
    manifest = Manifest(folder)
    for case in ("c", "a", "b", "a"):
        manifest.add(make_record(case, raw, folder))
    manifest.keep(["a", "c", "unknown"])
    assert [json.loads(line)["case"] for line in manifest.path.read_text().splitlines()] == ["a", "c"]
    assert list(manifest.records) == ["a", "c"]


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "{",
        "[]",
        "null",
        "5",
        '"text"',
        "{}",
        '{"case": "x", "settings": "s", "inputs": [], "outputs": {}}',
        '{"case": "x", "settings": "s", "inputs": {"a": 5}, "outputs": {}}',
        '{"case": "x", "settings": "s", "inputs": {"a": {"size": 1}}, "outputs": {}}',
        '{"case": "x", "settings": "s", "inputs": {"a": {"size": 1, "other": 1}}, "outputs": {}}',
        "\x00\x01",
        "[" * 5000,
    ],
)
def test_garbage_is_ignored(record: CaseRecord, folder: Path, garbage: str) -> None:
    manifest = Manifest(folder)
    manifest.path.write_text(f"{garbage}\n{record.to_line()}{garbage}\n")
    read = Manifest(folder)
    assert read.records == {"case": record}
    read.keep(read.records)
    assert manifest.path.read_text() == record.to_line()


def test_bytes_that_are_no_text_are_ignored(record: CaseRecord, folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.path.write_bytes(b"\xff\xfe\x80\n" + record.to_line().encode())
    assert Manifest(folder).records == {"case": record}


def test_strange_types_do_not_harm(record: CaseRecord, folder: Path, raw: tuple[Path, ...]) -> None:
    manifest = Manifest(folder)
    manifest.add(record)
    with manifest.path.open("a") as file:
        file.write('{"case": 5, "settings": 7, "inputs": {}, "outputs": {}}\n')
        file.write(json.dumps({"case": "case", "settings": "s", "inputs": {}, "outputs": {"case.pkl": {}}}) + "\n")
        stamp = {"size": "1", "mtime_ns": None, "checksum": 3}
        names = {f"{i}:{p.name}": stamp for i, p in enumerate(raw)}
        file.write(json.dumps({"case": "odd", "settings": "s", "inputs": names, "outputs": {}}) + "\n")
    read = Manifest(folder)
    assert read.records["case"] == record
    assert not read.records["odd"].is_current("s", raw)
    read.keep(read.records)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    data=st.fixed_dictionaries({}, optional=dict.fromkeys(("case", "settings", "inputs", "outputs"), json_values))
    | json_values
)
def test_any_json_is_a_record_or_nothing(data: object) -> None:
    record = CaseRecord.from_line(json.dumps(data))
    assert record is None or isinstance(record.case, str)
