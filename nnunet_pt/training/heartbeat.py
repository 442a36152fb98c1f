"""Signs of life: which processes of a training are still there, and why one is not.

Each process counts on in the store where they met, and watches the others' numbers. One whose number stays the same for
a minute is lost, whether its machine stopped, its network or itself. Clocks of different machines are never compared.
Exchanging tensors fails at once where a connection is closed, but not where nothing comes any more, and never says who.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from nnunet_pt.core.console import show_error
from nnunet_pt.core.errors import NnunetError, TrainingError, TrainingStopped

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_S = 2.0
SILENCE_S = 60.0  # longer than any code that lets no other thread run
_MISSED_BEATS = 3  # of a process that has closed its connections: enough to know that it is gone
_PATIENCE_BEATS = 5
_KEY = "nnunet_pt/life"
_STARTER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a process does not go on.

    Attributes:
        kind: "done", "error", "stopped" (by a signal) or "follows" (another one).
        reason: First line of its error.
        exit_status: Its exit status.
    """

    kind: str
    reason: str = ""
    exit_status: int = 0

    @classmethod
    def of(cls, error: BaseException | None) -> End:
        """The end that an error brings."""
        if error is None:
            return cls(kind="done")
        text = error.problem if isinstance(error, NnunetError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            text = "Ctrl-C. Continue with --c from the last saved state."
        stopped = isinstance(error, TrainingStopped | KeyboardInterrupt)
        status = getattr(error, "exit_status", 130 if stopped else 1)
        return cls(kind="stopped" if stopped else "error", reason=text.splitlines()[0], exit_status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What a process says about itself: its machine, a number that counts on, and in the end why."""

    host: str = "?"
    beat: int = 0
    end: End | None = None

    @classmethod
    def from_text(cls, text: bytes) -> Life:
        """Read what :meth:`to_text` has written."""
        content = json.loads(text)
        end = content["end"]
        return cls(host=content["host"], beat=content["beat"], end=None if end is None else End(**end))

    def to_text(self) -> str:
        """For the store."""
        return json.dumps(asdict(self))


class Heartbeat:
    """Shows the others that this process lives, and ends it when one of them is lost and nothing else notices.

    Args:
        store: A connection to the store that nobody else uses.
        shared: The connection of everything else; process 0 may hold the store itself with it, as long as it is kept.
        rank: Number of this process.
        world_size: How many there are.
        host: The machine of this process.
        serves: Whether process 0 holds the store, not the launcher.
    """

    def __init__(self, store: Store, shared: Store, *, rank: int, world_size: int, host: str, serves: bool) -> None:
        self._store = store
        self._shared = shared
        self._rank = rank
        self._host = host
        self._serves = serves
        self._keys = [f"{_KEY}/{number}" for number in range(world_size)]
        self._beats = 0
        self._end: End | None = None
        self._lives = [Life()] * world_size
        self._awake_s = 0.0  # without times in which this process could not run, when it would have heard nobody
        self._heard_s = [0.0] * world_size
        self._answered_s = 0.0
        self._answers = 0
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="nnunet_pt-heartbeat", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="nnunet_pt-watch", daemon=True)
        self._send()

    def start(self) -> None:
        """Begin, once all processes have met."""
        self._ask()
        self._beating.start()
        self._watching.start()

    def tell(self, error: BaseException | None) -> None:
        """Tell the others that this process ends, and why; call it before they can notice."""
        self._say(End.of(error))

    def explain(self, error: Exception) -> NnunetError:
        """What to tell the user when an exchange with the others has failed: who is not there any more, and why."""
        self._say(End(kind="follows"))
        self._wait(lambda: bool(self._left()))
        found = self._left()
        if found:
            return self._described(found)
        return TrainingError(
            f"Another process of this training has ended, so process {self._rank} of {len(self._keys)} ends, too.",
            found=str(error).splitlines()[0].partition(" This is typically")[0],
            remedy="look at the messages of the other processes; when the cause is gone, continue with --c",
        )

    def close(self) -> None:
        """End the threads."""
        self._let_others_ask()
        self._closed.set()
        self._wake.set()
        for thread in (self._beating, self._watching):
            thread.join(BEAT_S)

    # ------------------------------------------------------------------ threads

    def _beat(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store does not answer any more; the other thread notices
            while not self._closed.is_set():
                self._wake.wait(BEAT_S)
                self._wake.clear()
                self._send()
                self._ask()
                self._answers += 1

    def _ask(self) -> None:
        for number, text in enumerate(self._store.multi_get(self._keys)):
            life = Life.from_text(text)
            if life != self._lives[number]:
                self._lives[number], self._heard_s[number] = life, self._awake_s
        self._answered_s = self._awake_s

    def _send(self) -> None:
        self._beats += 1
        life = Life(host=self._host, beat=self._beats, end=self._end)
        self._store.set(self._keys[self._rank], life.to_text())

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._closed.wait(BEAT_S / 2):
            now = time.monotonic()
            self._awake_s += min(now - last, BEAT_S)
            last = now
            lost = [n for n, life in self._others() if not _is_done(life) and self._silent_s(n) > SILENCE_S]
            if self._awake_s - self._answered_s > SILENCE_S and not (self._serves and _is_done(self._lives[0])):
                lost = [0 if self._serves else _STARTER]
            if lost and not self._closed.is_set():
                self._end_process(lost)

    def _end_process(self, lost: Sequence[int]) -> None:
        """End this process although its main thread waits for others in code that cannot be interrupted."""
        error = self._described(lost)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            show_error(error, exit_status=error.exit_status)
            sys.stderr.flush()
        self._say(End(kind="follows"))
        self._let_others_ask()
        os._exit(error.exit_status)

    # ------------------------------------------------------------------ what is known

    def _others(self) -> list[tuple[int, Life]]:
        return [(n, life) for n, life in enumerate(self._lives) if n != self._rank]

    def _silent_s(self, number: int) -> float:
        """How long the number of a process had stayed the same when the store last answered."""
        return self._answered_s - self._heard_s[number]

    def _is_missing(self, number: int) -> bool:
        return self._silent_s(number) > _MISSED_BEATS * BEAT_S

    def _left(self) -> list[int]:
        """A process that told why it ended; else those that are missing; else that whose store is gone."""
        for kind in ("error", "stopped"):
            told = [n for n, life in self._others() if life.end is not None and life.end.kind == kind]
            if told:
                return told[:1]
        missing = [n for n, life in self._others() if life.end is None and self._is_missing(n)]
        if not missing and self._serves and self._rank != 0 and not self._beating.is_alive():
            return [0]
        return missing

    def _described(self, lost: Sequence[int]) -> NnunetError:
        """The error of this process when others have left; the first of those that are there says it in full."""
        who, end = "The process that started this training", None
        if lost[0] != _STARTER:
            hosts = ", ".join(dict.fromkeys(self._lives[n].host for n in lost))
            numbers = ", ".join(map(str, lost))
            who = f"Process{'es' * (len(lost) > 1)} {numbers} of {len(self._keys)} (on {hosts})"
            end = self._lives[lost[0]].end
        if end is not None and end.kind == "stopped":
            return TrainingStopped(f"{who} stopped: {end.reason}", exit_status=end.exit_status)
        there = [n for n, life in self._others() if n not in lost and (life.end is None or life.end.kind == "follows")]
        if self._rank > min(there, default=self._rank):
            return TrainingError(f"{who} left the training, so process {self._rank} ends, too.")
        if end is not None and end.kind == "error":
            return TrainingError(
                f"{who} failed, so this training ends.",
                found=end.reason,
                remedy="its own message says more; when the cause is gone, continue with --c",
            )
        return TrainingError(
            f"{who} {'are' if len(lost) > 1 else 'is'} lost, so this training ends.",
            found="no sign of life and no word why: killed, out of memory, or the machine or its network failed",
            remedy="continue with --c; a job of SLURM can also be queued again: scontrol requeue JOB",
        )

    # ------------------------------------------------------------------ talking

    def _say(self, end: End) -> None:
        self._end = self._end or end
        answers = self._answers
        self._wait(lambda: self._answers > answers + 1)  # the first one may have been on its way

    def _let_others_ask(self) -> None:
        """If this process holds the store: wait until the others end, too."""
        if self._serves and self._rank == 0:
            self._wait(lambda: all(life.end is not None or self._is_missing(n) for n, life in self._others()))
            time.sleep(min(BEAT_S / 4, 0.5))  # they may have told theirs just before they ask

    def _wait(self, until: Callable[[], bool]) -> None:
        """Wait for something that the store tells, but not for long, and not if it does not answer any more."""
        end = time.monotonic() + _PATIENCE_BEATS * BEAT_S
        while not until() and self._beating.is_alive() and time.monotonic() < end:
            self._wake.set()
            time.sleep(min(0.05, BEAT_S / 4))


def _is_done(life: Life) -> bool:
    return life.end is not None and life.end.kind == "done"
