"""When to save, and what signals ask for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from nnunet_pt.training.interruption import SavePolicy, StopSignals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "requested", "status", "name"),
    [
        (signal.SIGUSR1, "save", 0, None),
        (signal.SIGTERM, "stop", 143, "SIGTERM"),
        (signal.SIGINT, "stop", 130, "SIGINT"),
    ],
)
def test_signals_are_noted(number: int, requested: str, status: int, name: str | None) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.requested is None
        send(number)
        assert (signals.requested, signals.exit_status, signals.signal_name) == (requested, status, name)
        signals.saved()
        assert signals.requested == (None if requested == "save" else "stop")
    assert signal.getsignal(number) is before


def test_stopping_outranks_saving() -> None:
    with StopSignals() as signals:
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        send(signal.SIGUSR1)
        assert signals.requested == "stop"


def test_second_interrupt_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals():
        send(signal.SIGINT)
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)


def test_first_reason_to_stop_counts() -> None:
    with StopSignals() as signals:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert signals.exit_status == 143


def test_other_threads_change_nothing() -> None:
    found: list[object] = []

    def run() -> None:
        with StopSignals() as signals:
            found.append(signals.requested)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [None]
    assert signal.getsignal(signal.SIGTERM) is before


FORKED = """
import os, signal, sys, time
from nnunet_pt.training.interruption import StopSignals
with StopSignals() as signals:
    child = os.fork()
    if not child:
        time.sleep(20)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
    assert signals.requested is None
"""


def test_forked_workers_still_die() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_saving_by_time() -> None:
    clock = Clock()
    policy = SavePolicy(minutes=10, every_epochs=0, clock=clock)
    clock.now += 599
    assert not policy.due_after_step()
    clock.now += 1
    assert policy.due_after_step()
    assert policy.due_after_epoch(3, 1000)
    policy.done()
    assert not policy.due_after_step()
    assert not policy.due_after_epoch(3, 1000)


def test_saving_by_epochs_is_that_of_nnunet() -> None:
    policy = SavePolicy(minutes=0, every_epochs=50, clock=Clock())
    due = [epoch for epoch in range(200) if policy.due_after_epoch(epoch, 200)]
    assert due == [49, 99, 149]
    assert not policy.due_after_step()
