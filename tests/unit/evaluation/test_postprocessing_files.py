"""postprocessing.pkl and postprocessing.json: written as nnU-Net reads them, read without executing anything."""

from __future__ import annotations

import base64
import json
import os
import pickle
import pickletools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import PredictionError, StorageError
from nnunet_pt.evaluation import postprocessing_files
from nnunet_pt.evaluation.postprocessing_files import (
    FUNCTION,
    MODULE,
    KeepLargest,
    Steps,
    read_postprocessing,
    write_postprocessing,
)
from nnunet_pt.evaluation.summary import CaseMetrics, Summary

# Recorded: removing all but the largest component of 1 and 2 together, then of 1; of 1, 2, 3, then of the region (2, 3)
RECORDED = {
    "labels": (
        "gASVGAEAAAAAAABdlCiMM25udW5ldHYyLnBvc3Rwcm9jZXNzaW5nLnJlbW92ZV9jb25uZWN0ZWRfY29tcG9uZW50c5SMMnJlbW92"
        "ZV9hbGxfYnV0X2xhcmdlc3RfY29tcG9uZW50X2Zyb21fc2VnbWVudGF0aW9ulJOUaANlXZQofZSMEWxhYmVsc19vcl9yZWdpb25z"
        "lF2UKIwWbnVtcHkuX2NvcmUubXVsdGlhcnJheZSMBnNjYWxhcpSTlIwFbnVtcHmUjAVkdHlwZZSTlIwCaTiUiYiHlFKUKEsDjAE8"
        "lE5OTkr/////Sv////9LAHSUYkMIAQAAAAAAAACUhpRSlGgKaBBDCAIAAAAAAAAAlIaUUpRlc32UaAZoFXNlhpQu",
        (KeepLargest(labels_or_regions=[1, 2]), KeepLargest(labels_or_regions=1)),
    ),
    "regions": (
        "gASVLwEAAAAAAABdlCiMM25udW5ldHYyLnBvc3Rwcm9jZXNzaW5nLnJlbW92ZV9jb25uZWN0ZWRfY29tcG9uZW50c5SMMnJlbW92"
        "ZV9hbGxfYnV0X2xhcmdlc3RfY29tcG9uZW50X2Zyb21fc2VnbWVudGF0aW9ulJOUaANlXZQofZSMEWxhYmVsc19vcl9yZWdpb25z"
        "lF2UKIwWbnVtcHkuX2NvcmUubXVsdGlhcnJheZSMBnNjYWxhcpSTlIwFbnVtcHmUjAVkdHlwZZSTlIwCaTiUiYiHlFKUKEsDjAE8"
        "lE5OTkr/////Sv////9LAHSUYkMIAQAAAAAAAACUhpRSlGgKaBBDCAIAAAAAAAAAlIaUUpRoCmgQQwgDAAAAAAAAAJSGlFKUZXN9"
        "lGgGSwJLA4aUc2WGlC4=",
        (KeepLargest(labels_or_regions=[1, 2, 3]), KeepLargest(labels_or_regions=(2, 3))),
    ),
}
STEPS: Steps = (
    KeepLargest(labels_or_regions=[1, 2, 300]),
    KeepLargest(labels_or_regions=(2, 300)),
    KeepLargest(labels_or_regions=300),
)
METRICS = {"Dice": 0.5, "TP": 3}
SUMMARY = Summary.of([CaseMetrics(reference_file=Path("a"), prediction_file=Path("b"), metrics={(1, 2): METRICS})])


def steps_json(steps: Steps, **more: Any) -> dict[str, Any]:
    return {
        "postprocessing_fns": [FUNCTION] * len(steps),
        "postprocessing_kwargs": [{"labels_or_regions": step.labels_or_regions} for step in steps],
        **more,
    }


@pytest.mark.parametrize("steps", [STEPS, STEPS[:1], ()])
def test_what_is_written_is_read_again(tmp_path: Path, steps: Steps) -> None:
    written = write_postprocessing(tmp_path, steps, SUMMARY, SUMMARY)
    assert written == tmp_path / "postprocessing.pkl"
    assert read_postprocessing(written) == steps
    from_json = read_postprocessing(tmp_path / "postprocessing.json")
    assert [step.labels for step in from_json] == [step.labels for step in steps]
    content = json.loads((tmp_path / "postprocessing.json").read_text())
    means = {"foreground_mean": METRICS, "mean": {"(1, 2)": METRICS}}
    assert content == json.loads(json.dumps(steps_json(steps, input_folder=means, postprocessed=means)))
    assert list(content) == sorted(content)


@pytest.mark.parametrize("name", RECORDED)
def test_a_pickle_of_nnunet_is_read_without_nnunet(tmp_path: Path, name: str) -> None:
    path = tmp_path / "postprocessing.pkl"
    path.write_bytes(base64.b64decode(RECORDED[name][0]))
    assert read_postprocessing(path) == RECORDED[name][1]
    assert not [module for module in sys.modules if module.startswith("nnunetv2")]


def test_our_pickle_names_nothing_but_the_function_of_nnunet(tmp_path: Path) -> None:
    content = write_postprocessing(tmp_path, STEPS, SUMMARY, SUMMARY).read_bytes()
    named = {value for opcode, value, _ in pickletools.genops(content) if opcode.name in ("GLOBAL", "STACK_GLOBAL")}
    assert named == {f"{MODULE} {FUNCTION}"}


def test_any_unpickler_gets_functions_and_arguments(tmp_path: Path) -> None:
    class Theirs(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return f"{module}:{name}"

    path = write_postprocessing(tmp_path, STEPS, SUMMARY, SUMMARY)
    with path.open("rb") as file:
        functions, arguments = Theirs(file).load()
    assert functions == [f"{MODULE}:{FUNCTION}"] * 3
    assert arguments == [{"labels_or_regions": value} for value in ([1, 2, 300], (2, 300), 300)]


class Calls:
    """Pickled, this is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize("place", ["alone", "function", "arguments"])
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path, place: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / "postprocessing.pkl"
    evil = Calls(os.system, f"touch {trap}")
    content: dict[str, Any] = {
        "alone": evil,
        "function": ([evil], [{"labels_or_regions": 1}]),
        "arguments": ([], [{"labels_or_regions": evil}]),
    }
    path.write_bytes(pickle.dumps(content[place]))
    with pytest.raises(PredictionError, match=r"nothing of it was executed(.|\n)*posix.system") as caught:
        read_postprocessing(path)
    assert not trap.exists()
    assert str(path) in str(caught.value)
    assert pickle.loads(path.read_bytes()) is not None and trap.exists()  # it would have worked


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "Ran out of input"),
        (base64.b64decode(RECORDED["labels"][0])[:-30], "."),
        (b"no pickle", "."),
        (pickle.dumps([1, 2, 3]), "unpack"),
        (pickle.dumps(5), "unpack"),
        (pickle.dumps(([], [{"labels_or_regions": 1}])), "0 functions for 1"),
        (pickle.dumps((["other"], [{"labels_or_regions": 1}])), "unknown function 'other'"),
        (pickle.dumps((FUNCTION, [{}] * len(FUNCTION))), "functions for"),
        (pickle.dumps(([FUNCTION], [{}])), "no argument labels_or_regions"),
        (pickle.dumps(([FUNCTION], [3])), "no argument labels_or_regions"),
        (pickle.dumps(([FUNCTION], [{"labels_or_regions": "1"}])), "'1' is no label"),
        (pickle.dumps(([FUNCTION], [{"labels_or_regions": -1}])), "-1 is no label"),
        (pickle.dumps(([FUNCTION], [{"labels_or_regions": True}])), "True is no label"),
        (pickle.dumps(([FUNCTION], [{"labels_or_regions": 1, "background_label": 2}])), "not supported"),
        (pickle.dumps(([FUNCTION], [{"labels_or_regions": 1, "other": 2}])), "not supported"),
        (pickle.dumps((7, [])), "no len|object of type"),
        (f"(c{MODULE}\n{FUNCTION}\n(tR.".encode(), "callable"),
    ],
)
def test_what_is_not_a_postprocessing_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "postprocessing.pkl"
    path.write_bytes(content)
    with pytest.raises(PredictionError, match=rf"not a postprocessing(.|\n)*{found}"):
        read_postprocessing(path)


def test_numbers_of_numpy_and_nested_regions_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "postprocessing.pkl"
    arguments = [{"labels_or_regions": [(np.int64(1), 2), np.uint8(3)], "background_label": 0}]
    path.write_bytes(pickle.dumps(([FUNCTION], arguments)))
    assert read_postprocessing(path)[0].labels == (1, 2, 3)


def test_a_huge_pickle_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postprocessing_files, "_MAX_PICKLE_BYTES", 10)
    with pytest.raises(PredictionError, match="such a file has some hundred"):
        read_postprocessing(write_postprocessing(tmp_path, STEPS, SUMMARY, SUMMARY))


def test_without_a_pickle_the_json_beside_it_is_read(tmp_path: Path) -> None:
    path = write_postprocessing(tmp_path, STEPS, SUMMARY, SUMMARY)
    path.unlink()
    assert [step.labels for step in read_postprocessing(path)] == [step.labels for step in STEPS]


@pytest.mark.parametrize("content", ["[]", "{}", '{"postprocessing_fns": ["x"], "postprocessing_kwargs": [{}]}'])
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "postprocessing.json"
    path.write_text(content)
    with pytest.raises(PredictionError, match="not a postprocessing"):
        read_postprocessing(path)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"no postprocessing .*other\.pkl"):
        read_postprocessing(tmp_path / "other.pkl")
    (tmp_path / "other.json").write_text("{")
    with pytest.raises(StorageError, match=r"other\.json is not valid JSON"):
        read_postprocessing(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "label 3"), ((3,), "label 3"), ([1, 2], "labels 1, 2 together"), ((2, 3), "labels 2, 3 together")],
)
def test_steps_say_what_they_are(value: Any, text: str) -> None:
    assert str(KeepLargest(labels_or_regions=value)) == text
