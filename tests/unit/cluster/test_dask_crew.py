"""Which worker of Dask takes a case."""

from __future__ import annotations

import pytest

from nnunet_pt.cluster.dask_crew import Absence, Crew, Member, Waiting
from nnunet_pt.cluster.dask_worker import WorkerFacts
from nnunet_pt.core.errors import WorkerError

GB = 2**30


def crew(*memory_gb: float, slots: int = 2, cpus: int = 8, machine: str = "") -> Crew:
    """Workers a, b, c... of which so much memory may be used."""
    members = {}
    for name, gb in zip("abcd", memory_gb, strict=False):
        facts = WorkerFacts(
            host=machine or name,
            cpus=cpus,
            machine=machine or name,
            memory_bytes=round(gb / 0.8 * GB) + 1,
            missing=(),
            marked=True,
        )
        members[name] = Member(address=name, facts=facts, slots=slots)
    return Crew(members)


def take(workers: Crew, gb: float, reserved: set[str] | None = None) -> str | None:
    """Who takes a case of so much memory; it runs there from then on."""
    member = workers.choose(round(gb * GB), set() if reserved is None else reserved)
    if member is None:
        return None
    member.running += 1
    member.ram_used += round(gb * GB)
    return member.address


def test_cases_go_to_the_worker_with_most_room() -> None:
    workers = crew(4, 8)
    assert [take(workers, 1) for _ in range(5)] == ["b", "a", "b", "a", None]


def test_a_case_waits_for_its_memory_and_is_not_overtaken() -> None:
    workers = crew(4, 8)
    assert [take(workers, 3), take(workers, 3)] == ["b", "a"]
    reserved: set[str] = set()
    assert take(workers, 7, reserved) is None and reserved == {"b"}
    assert [take(workers, 1, reserved), take(workers, 1, reserved)] == ["a", None]  # b is kept for the large one
    workers.members["b"].running = workers.members["b"].ram_used = 0
    assert take(workers, 7) == "b"


def test_a_case_larger_than_any_worker_runs_alone(caplog: pytest.LogCaptureFixture) -> None:
    workers = crew(4, 8)
    assert take(workers, 1) == "b"
    reserved: set[str] = set()
    assert take(workers, 20, reserved) is None and reserved == {"b"} and not caplog.records
    workers.members["b"].running = workers.members["b"].ram_used = 0
    assert take(workers, 20) == "b"
    assert "needs about 20.0 GB" in caplog.text and "b on b, shall use 8.0 GB" in caplog.text
    assert [take(workers, 1), take(workers, 1), take(workers, 1)] == ["a", "a", None]


def test_workers_of_one_machine_share_its_cpus() -> None:
    assert crew(1, 1, slots=1).threads == 8
    together = crew(1, 1, slots=2, machine="node")
    assert (together.threads, together.slots, together.ram_bytes // GB) == (2, 4, 2)
    assert together.summary() == "2 workers on 1 machine, 4 cases at a time"
    assert crew(slots=1).threads == 1 and take(crew(), 1) is None


@pytest.mark.parametrize(("patience_s", "news", "found"), [(1e-9, "", "none within"), (99.0, None, "none are coming")])
def test_nobody_is_waited_for_in_vain(patience_s: float, news: str | None, found: str) -> None:
    waiting = Waiting(Absence(name="Dask", advice="start some", patience_s=patience_s, news=lambda: news))
    with pytest.raises(WorkerError, match="Dask has no workers") as caught:
        waiting.go_on()
    assert str(caught.value.found).startswith(found) and caught.value.remedy == "start some"
