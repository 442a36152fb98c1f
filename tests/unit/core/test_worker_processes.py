"""LocalExecutor: processes, channels, deaths."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_pt.core.errors import ImageError, UsageError
from nnunet_pt.core.executor import InProcessExecutor, RemoteTraceback, WorkerDied
from nnunet_pt.core.local_executor import THREAD_VARIABLES, LocalExecutor


@pytest.fixture
def executor(jobs: ModuleType) -> Iterator[LocalExecutor]:  # noqa: ARG001  the search path has to be set first
    with LocalExecutor(1, threads_per_worker=3) as executor:
        assert isinstance(executor, LocalExecutor)
        yield executor


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.recursive(st.integers() | st.text() | st.binary(), lambda s: st.lists(s) | st.tuples(s, s)))
def test_any_value_makes_the_round_trip(executor: LocalExecutor, jobs: ModuleType, value: object) -> None:
    assert executor.submit(jobs.echo, value).result(10) == value


def test_large_values_make_the_round_trip(executor: LocalExecutor, jobs: ModuleType) -> None:
    value = os.urandom(1 << 20) * 20
    assert executor.submit(jobs.echo, value).result(10) == value


def test_work_is_done_elsewhere_and_the_process_is_kept(executor: LocalExecutor, jobs: ModuleType) -> None:
    first, second = (executor.submit(jobs.process_id, None).result(10) for _ in range(2))
    assert first == second != os.getpid()


def test_worker_killed_while_idle_is_replaced_without_a_failure(executor: LocalExecutor, jobs: ModuleType) -> None:
    first = executor.submit(jobs.process_id, None).result(10)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert executor.submit(jobs.process_id, None).result(10) != first


def test_death_tells_signal_and_last_position(executor: LocalExecutor, jobs: ModuleType) -> None:
    with pytest.raises(WorkerDied) as caught:
        executor.submit(jobs.nap_then_die, None).result(10)
    assert caught.value.killed_by == "SIGKILL"
    assert "in sleep_where_it_can_be_seen" in caught.value.details
    assert "GB" in caught.value.details
    assert executor.submit(jobs.square, 4).result(10) == 16


def test_crash_in_compiled_code_tells_the_python_line(executor: LocalExecutor, jobs: ModuleType) -> None:
    with pytest.raises(WorkerDied) as caught:
        executor.submit(jobs.segmentation_fault, None).result(10)
    assert caught.value.killed_by == "SIGSEGV"
    assert "in segmentation_fault" in caught.value.details


def test_old_positions_are_not_reported_for_later_cases(executor: LocalExecutor, jobs: ModuleType) -> None:
    executor.submit(jobs.sleep_where_it_can_be_seen, 0.8).result(10)
    with pytest.raises(WorkerDied) as caught:
        executor.submit(jobs.leave_without_a_word, 9).result(10)
    assert caught.value.killed_by is None
    assert caught.value.exit_status == 9
    assert "sleep_where" not in caught.value.details


def test_child_that_keeps_the_channel_open_does_not_hide_the_death(
    executor: LocalExecutor, jobs: ModuleType, tmp_path: Path
) -> None:
    began = time.monotonic()
    try:
        with pytest.raises(WorkerDied, match="SIGKILL"):
            executor.submit(jobs.die_while_a_child_lives, (str(tmp_path), 30)).result(15)
        assert time.monotonic() - began < 5
    finally:
        for path in tmp_path.glob("child-*"):
            os.kill(int(path.name.removeprefix("child-")), signal.SIGKILL)


def test_death_is_noticed_while_a_request_is_sent(executor: LocalExecutor, jobs: ModuleType) -> None:
    child = executor.submit(jobs.leave_a_child, 30).result(10)
    try:
        worker = executor.submit(jobs.process_id, None).result(10)
        os.kill(worker, signal.SIGSTOP)  # the large request gets stuck on its way
        future = executor.submit(jobs.echo, bytes(8 << 20))
        time.sleep(0.1)
        os.kill(worker, signal.SIGKILL)
        assert isinstance(future.exception(5), WorkerDied)
    finally:
        os.kill(child, signal.SIGKILL)


def test_user_error_comes_back_unchanged_with_remote_traceback(executor: LocalExecutor, jobs: ModuleType) -> None:
    error = executor.submit(jobs.image_error_for_three, 3).exception(10)
    assert isinstance(error, ImageError)
    assert error.remedy == "copy it again"
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in image_error_for_three" in str(error.__cause__)


def test_builtin_exception_comes_back_as_itself(executor: LocalExecutor, jobs: ModuleType) -> None:
    error = executor.submit(jobs.raise_for_three, 3).exception(10)
    assert type(error) is ValueError
    assert error.args == ("three is not allowed",)


def test_output_of_tasks_goes_to_standard_error(
    executor: LocalExecutor, jobs: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    executor.submit(jobs.print_both, "hello").result(10)
    executor.close()  # the worker flushes when it ends
    captured = capfd.readouterr()
    assert captured.out == ""
    assert set(captured.err.splitlines()) == {"out hello", "err hello"}


def test_tasks_can_start_programs(executor: LocalExecutor, jobs: ModuleType) -> None:
    assert executor.submit(jobs.subprocess_output, None).result(10) == "hello\n"


def test_numerical_libraries_are_limited(jobs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a smaller wish of the user counts
    monkeypatch.setenv("MKL_NUM_THREADS", "64")
    with LocalExecutor(1, threads_per_worker=3) as executor:
        found = executor.submit(jobs.variables, list(THREAD_VARIABLES)).result(10)
    assert found == ["1"] + ["3"] * (len(THREAD_VARIABLES) - 1)


def test_partial_functions_are_understood(executor: LocalExecutor) -> None:
    assert executor.submit(functools.partial(pow, 2), 5).result(10) == 32


def test_function_of_the_main_script_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        "from nnunet_pt.core.local_executor import LocalExecutor\n"
        "def work(x): return x\n"
        "with LocalExecutor(1) as e: e.submit(work, 1)\n"
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert "UsageError: The function work cannot be sent" in done.stderr
    assert "move it into a file of its own" in done.stderr


def test_close_ends_running_and_waiting_calls(jobs: ModuleType, tmp_path: Path) -> None:
    executor = LocalExecutor(1)
    running = executor.submit(jobs.announce_and_sleep, (str(tmp_path), 60.0))
    waiting = executor.submit(jobs.square, 2)
    while not list(tmp_path.glob("pid-*")):
        time.sleep(0.01)
    began = time.monotonic()
    executor.close()
    assert time.monotonic() - began < 2.5
    assert isinstance(running.exception(0), WorkerDied)
    assert waiting.cancelled()
    assert list(tmp_path.glob(".partial*")) == []
    executor.close()  # a second time does no harm
    with pytest.raises(RuntimeError):
        executor.submit(jobs.square, 2)


def test_no_files_stay_open(jobs: ModuleType) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = open_files()
    with LocalExecutor(2) as executor:
        for number in (1, 3, 2):
            executor.submit(jobs.kill_itself_at_three, number).exception(10)
    assert open_files() == before


@pytest.mark.parametrize(("num_workers", "threads"), [(0, None), (1, 0), (-1, 1)])
def test_impossible_numbers_are_refused_at_once(num_workers: int, threads: int | None) -> None:
    with pytest.raises(UsageError):
        LocalExecutor(num_workers, threads)


def test_in_process_executor_runs_here() -> None:
    with InProcessExecutor() as executor:
        assert executor.submit(lambda _: os.getpid(), 0).result(0) == os.getpid()
        assert isinstance(executor.submit(lambda x: 1 // x, 0).exception(0), ZeroDivisionError)


SLOW_TO_IMPORT = """
import os
import time
from pathlib import Path

if folder := os.environ.get("SLOW_TO_IMPORT"):
    (Path(folder) / "begun").touch()
    try:
        time.sleep(60)
    except BaseException:  # where large packages abort, with pages of text
        (Path(folder) / "interrupted").touch()
        raise


def work(value):
    return value
"""


def test_a_worker_that_is_ended_while_it_imports_ends_without_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text(SLOW_TO_IMPORT)
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module("slow_to_import").work
    monkeypatch.setenv("SLOW_TO_IMPORT", str(tmp_path))
    executor = LocalExecutor(1)
    future = executor.submit(work, 3)
    end = time.monotonic() + 20
    while not (tmp_path / "begun").exists() and time.monotonic() < end:
        time.sleep(0.02)
    executor.close()
    assert isinstance(future.exception(), WorkerDied)
    assert (tmp_path / "begun").exists() and not (tmp_path / "interrupted").exists()
    sys.modules.pop("slow_to_import")
