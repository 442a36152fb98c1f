"""Whether worker processes start is found out by starting one."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_pt.doctor import machine as checks


def test_a_worker_starts(machine: Any) -> None:
    finding = checks._workers(machine.system())
    assert finding.status == "ok"
    assert finding.values["seconds"] > 0


def test_a_worker_that_cannot_start_is_a_problem(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: object, **_options: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable\nmore")

    monkeypatch.setattr(checks.LocalExecutor, "_take_worker", refused)
    finding = checks._workers(machine.system())
    assert finding.status == "problem"
    assert finding.found == "fails: Resource temporarily unavailable"
    assert "ulimit -u" in finding.remedy
