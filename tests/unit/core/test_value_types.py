from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest

from nnunet_pt import PredictRequest, TrainRequest
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.value_types import check_types


class Anything(Protocol):
    def do(self) -> None: ...


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [3, np.int64(3)], ["3", 3.0, True, None]),
        (float, [3, 3.5, np.float32(3)], ["3", None, False]),
        (bool, [True], ["yes", 1]),
        (str | None, ["a", None], [3, Path("a")]),
        (Path, [Path("a")], ["a", None]),
        (tuple[str, ...], [("a",), ["a"], ()], ["a", ("a", 3), None]),
        (str | Sequence[str] | None, ["a", ["a"], None], [3, [3]]),
        (int | Literal["all"], [0, "all"], ["0", "ALL"]),
        (Literal["cpu", "gpu"], ["cpu", "tpu"], [0]),  # which words there are is checked where they are used
        (Mapping[int, str], [{1: "a"}], [["a"]]),
        (Anything | None, [object(), None], []),
    ],
)
def test_what_is_of_a_type(hint: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_types("call", {"name": value}, {"name": hint})
    for value in bad:
        with pytest.raises(UsageError, match="call was called with wrong types"):
            check_types("call", {"name": value}, {"name": hint})


def test_all_wrong_fields_of_a_request_are_named_with_their_types() -> None:
    with pytest.raises(UsageError) as caught:
        TrainRequest(dataset=4, configuration="2d", fold="0", freeze="encoder", seed=1.5)  # type: ignore[arg-type]
    assert str(caught.value.found).split("\n            ") == [
        "fold='0', expected int or 'all'",
        "freeze='encoder', expected a tuple of str or None",
        "seed=1.5, expected int or None",
    ]
    with pytest.raises(UsageError, match="PredictRequest was called with wrong types") as caught:
        PredictRequest(model_folder="model", inputs=Path("in"), output=Path("out"))  # type: ignore[arg-type]
    assert "inputs=PosixPath('in'), expected a tuple of pathlib.Path" in str(caught.value.found)
