from __future__ import annotations

import pytest

from nnunet_pt.core.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "case", "1 case"),
        (2, "case", "2 cases"),
        (0, "validation case", "0 validation cases"),
        (1, "process", "1 process"),
        (3, "process", "3 processes"),
        (2, "patch", "2 patches"),
        (2, "epoch", "2 epochs"),
    ],
)
def test_nouns_agree_with_their_number(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
