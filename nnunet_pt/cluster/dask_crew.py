"""The workers of a Dask cluster: which there are, which of them takes a case, and what happens while there are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nnunet_pt.cluster.dask_worker import WorkerFacts
from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import WorkerError
from nnunet_pt.core.executor import WorkerDied
from nnunet_pt.core.wording import counted

SAY_AGAIN_S = 30.0
SHARE_OF_MEMORY = 0.8  # the estimates are estimates

_log = get_logger(__name__)


class DaskWorkerLost(WorkerDied):
    """The worker of Dask that worked on a case is gone: killed, its machine lost, or its job at its end."""

    def __init__(self, name: str) -> None:
        super().__init__(None, None, "What it did last is in the log of the worker or of its job.")
        self.name = name

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.name,))

    def __str__(self) -> str:
        return f"the Dask worker {self.name} was lost"


@dataclass(kw_only=True, eq=False)
class Member:
    """A worker that may be used.

    Attributes:
        address: Its address.
        facts: What it said about itself.
        slots: Calls at the same time.
        running: Calls at the moment.
        ram_used: What these need, in bytes.
    """

    address: str
    facts: WorkerFacts
    slots: int
    running: int = 0
    ram_used: int = 0

    @property
    def name(self) -> str:
        """How people find it."""
        return f"{self.address} on {self.facts.host}"

    @property
    def ram(self) -> int:
        """Memory for all its calls, in bytes."""
        return int(SHARE_OF_MEMORY * self.facts.memory_bytes)

    @property
    def free_ram(self) -> int:
        """What of it no call needs."""
        return self.ram - self.ram_used


@dataclass
class Crew:
    """All workers that may be used, by address. Who uses it from several threads holds a lock."""

    members: dict[str, Member] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def __len__(self) -> int:
        return len(self.members)

    @property
    def slots(self) -> int:
        """Calls at the same time."""
        return sum(member.slots for member in self)

    @property
    def threads(self) -> int:
        """Threads for each call where there are fewest."""
        return min(map(self.threads_on, self), default=1)

    @property
    def ram_bytes(self) -> int:
        """Memory for all calls."""
        return sum(member.ram for member in self)

    def threads_on(self, member: Member) -> int:
        """Threads for each call of a worker: its share of the CPUs, which others may use, too."""
        together = sum(m.slots for m in self if m.facts.machine == member.facts.machine)
        return max(1, member.facts.cpus // together)

    def summary(self) -> str:
        """How many there are."""
        machines = len({member.facts.host for member in self})
        counts = [counted(len(self), "worker"), counted(machines, "machine"), counted(self.slots, "case")]
        return "{} on {}, {} at a time".format(*counts)

    def choose(self, ram_bytes: int, reserved: set[str]) -> Member | None:
        """The worker for the next call that waits, the one with most room; None if there is none now.

        Args:
            ram_bytes: What the call needs.
            reserved: Addresses of workers that earlier calls wait for. If this call has to wait, one is added, so that
                smaller calls do not overtake it there for ever.
        """
        if not self.members:
            return None
        open_ones = [m for m in self if m.running < m.slots and m.address not in reserved]
        fitting = [m for m in open_ones if ram_bytes <= m.free_ram]
        if fitting:
            return max(fitting, key=lambda m: (m.slots - m.running, m.free_ram))
        largest = max(self, key=lambda m: m.ram)
        if ram_bytes > largest.ram and not largest.running:
            _log.warning(
                "A case needs about %.1f GB of memory; the Dask worker with most of it, %s, shall use %.1f GB. It runs "
                "alone there.",
                ram_bytes / 2**30,
                largest.name,
                largest.ram / 2**30,
            )
            return largest
        enough = [m for m in self if ram_bytes <= m.ram] or [largest]
        reserved.add(min(enough, key=lambda m: m.ram_used).address)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """What is done while there are no workers.

    Attributes:
        name: What the cluster is called.
        advice: What the user can do.
        patience_s: How long that may last.
        news: Tells what those do that are to come, or None if none are; an empty text if that is not known.
    """

    name: str
    advice: str
    patience_s: float
    news: Callable[[], str | None]


class Waiting:
    """Waits for workers, and says so now and then.

    Args:
        absence: What to say.
        quiet_s: When to begin with it.
    """

    def __init__(self, absence: Absence, quiet_s: float = 0.0) -> None:
        self._absence = absence
        self._began = time.monotonic()
        self._say_at = self._began + quiet_s

    def go_on(self) -> None:
        """To be called again and again while there are none.

        Raises:
            WorkerError: If that has lasted too long, or none are coming.
        """
        now, absence = time.monotonic(), self._absence
        news: str | None = ""
        if now >= self._say_at:
            news = absence.news()
            self._say_at = now + SAY_AGAIN_S
            if news is not None:
                _log.info("%s has no workers: %s", absence.name, news or absence.advice)
        if news is None or now - self._began > absence.patience_s:
            found = "none are coming" if news is None else f"none within {absence.patience_s:.0f} s"
            raise WorkerError(f"{absence.name} has no workers.", found=found, remedy=absence.advice)
