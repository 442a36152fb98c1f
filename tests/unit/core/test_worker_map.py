"""map_cases: what the stages rely on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import pytest

from nnunet_pt.core import workers
from nnunet_pt.core.errors import ImageError, UsageError, WorkerError
from nnunet_pt.core.executor import Executor, WorkerDied
from nnunet_pt.core.workers import CaseTask, LocalExecutor, map_cases

GB = 2**30
REPORT_LIMIT_S = 10.0


def numbered(count: int) -> list[CaseTask[int]]:
    return [CaseTask(case=f"case_{i}", argument=i) for i in range(count)]


def spans(folder: Path) -> dict[str, tuple[float, float]]:
    found = {}
    for path in folder.iterdir():
        if not path.name.startswith("."):
            began, ended = path.read_text().split()
            found[path.name] = (float(began), float(ended))
    return found


def most_at_once(found: dict[str, tuple[float, float]], weights: dict[str, int]) -> int:
    """The largest sum of weights of tasks that ran at the same time."""
    return max(sum(weights[n] for n, (b, e) in found.items() if b <= moment < e) for moment, _ in found.values())


def overlaps(found: dict[str, tuple[float, float]], name: str) -> list[str]:
    began, ended = found[name]
    return [n for n, (b, e) in found.items() if n != name and b < ended and began < e]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_tasks(jobs: ModuleType, num_workers: int) -> None:
    seen: dict[str, int] = {}
    result = map_cases(
        jobs.square,
        numbered(7)[::-1],
        num_workers=num_workers,
        description="squares",
        progress=False,
        on_result=seen.__setitem__,
    )
    assert list(result.results.items()) == [(f"case_{i}", i * i) for i in reversed(range(7))]
    assert result.failures == ()
    assert seen == result.results


def test_without_tasks_nothing_is_started(jobs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LocalExecutor", None)
    assert map_cases(jobs.square, [], num_workers=2, description="nothing").results == {}


def test_same_case_twice_is_refused(jobs: ModuleType) -> None:
    with pytest.raises(ValueError, match="case_0"):
        map_cases(jobs.square, numbered(1) * 2, num_workers=1, description="x")


@pytest.mark.parametrize("arguments", [{"num_workers": -1}, {"num_workers": 1, "max_ram_gb": 0.0}])
def test_impossible_numbers_are_refused(jobs: ModuleType, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        map_cases(jobs.square, numbered(1), description="x", **arguments)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_exception_is_reported_with_case_and_traceback(
    jobs: ModuleType, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    result = map_cases(
        jobs.raise_for_three,
        numbered(6),
        num_workers=num_workers,
        description="work",
        on_failure="continue",
        progress=False,
    )
    (failure,) = result.failures
    assert list(result.results.values()) == [0, 1, 2, 4, 5]
    assert failure.case == "case_3"
    assert failure.reason == "ValueError: three is not allowed"
    assert failure.killed_by is None
    assert "in raise_for_three" in failure.details
    assert "case_3" in caplog.text
    assert "in raise_for_three" in caplog.text


def test_stop_raises_names_the_case_and_keeps_the_traceback(jobs: ModuleType) -> None:
    with pytest.raises(WorkerError, match=r"case_3.*three is not allowed") as caught:
        map_cases(jobs.raise_for_three, numbered(6), num_workers=2, description="work", progress=False)
    assert "in raise_for_three" in str(caught.value.__cause__)


def test_stop_admits_nothing_more_but_lets_the_running_finish() -> None:
    done: list[str] = []
    begun: list[int] = []

    class Recording(ThreadExecutor):
        def submit(self, function: Callable[[Any], Any], argument: Any, ram_bytes: int = 0) -> Future[Any]:
            begun.append(argument)
            return super().submit(function, argument, ram_bytes)

    def work(number: int) -> int:
        if number == 0:
            raise ValueError("no")
        time.sleep(0.3)
        return number

    with pytest.raises(WorkerError, match="case_0"):
        map_cases(
            work,
            numbered(8),
            num_workers=1,
            description="work",
            progress=False,
            executor=Recording(3),
            on_result=lambda case, _: done.append(case),
        )
    assert begun == [0, 1, 2]
    assert sorted(done) == ["case_1", "case_2"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_user_errors_keep_their_class_and_text(jobs: ModuleType, num_workers: int) -> None:
    with pytest.raises(ImageError) as caught:
        map_cases(jobs.image_error_for_three, numbered(5), num_workers=num_workers, description="w", progress=False)
    assert caught.value.problem == "Case case_3: scan.nii.gz cannot be read"
    assert (caught.value.found, caught.value.expected, caught.value.remedy) == ("nothing", "an image", "copy it again")
    assert "Traceback" not in caught.value.text()


def test_user_error_that_names_its_case_is_not_changed(jobs: ModuleType) -> None:
    with pytest.raises(ImageError) as caught:
        map_cases(jobs.image_error, [CaseTask(case="scan", argument=0)], num_workers=1, description="w", progress=False)
    assert caught.value.text() == "scan.nii.gz cannot be read"


def test_several_failures_are_all_named() -> None:
    barrier = threading.Barrier(3)

    def work(number: int) -> None:
        barrier.wait(5)
        if number == 2:
            raise ValueError("odd one")
        raise ImageError(f"image {number} is broken", found="dust")

    with pytest.raises(WorkerError) as caught:
        map_cases(work, numbered(3), num_workers=1, description="w", progress=False, executor=ThreadExecutor(3))
    text = caught.value.text()
    assert "3 of 3 cases failed" in text
    for expected in ("case_0: image 0 is broken", "case_1: image 1", "dust", "case_2: ValueError: odd one"):
        assert expected in text


def test_failures_of_one_kind_keep_the_kind() -> None:
    def work(number: int) -> None:
        raise ImageError(f"image {number} is broken")

    class Batch(ThreadExecutor):
        """Runs both before either is looked at."""

        def submit(self, function: Callable[[Any], Any], argument: Any, ram_bytes: int = 0) -> Future[Any]:
            future = super().submit(function, argument, ram_bytes)
            while not future.done():
                time.sleep(0.001)
            return future

    with pytest.raises(ImageError, match="2 of 2"):
        map_cases(work, numbered(2), num_workers=1, description="w", progress=False, executor=Batch(2))


def test_killed_worker_is_tried_again_and_the_map_goes_on(
    jobs: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a", "fatal_b", "c", "d", "fatal_e", "f"]
    tasks = [CaseTask(case=n, argument=str(tmp_path / n)) for n in names]
    result = map_cases(jobs.kill_itself_once, tasks, num_workers=2, description="work", progress=False)
    assert list(result.results) == names
    warnings = sorted(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert [w.partition(".")[0] for w in warnings] == [
        f"work: case fatal_{x}: the worker process was killed by SIGKILL" for x in "be"
    ]


def test_second_try_is_alone(jobs: ModuleType, tmp_path: Path) -> None:
    names = ["a", "fatal", "b", "c", "d", "e"]
    tasks = [CaseTask(case=n, argument=(str(tmp_path), n, 0.1), ram_bytes=1) for n in names]
    map_cases(jobs.record_span_and_die_once, tasks, num_workers=3, description="work", progress=False)
    found = spans(tmp_path)
    assert set(found) == set(names)
    assert overlaps(found, "fatal") == []
    assert most_at_once(found, dict.fromkeys(names, 1)) > 1


def test_killed_twice_stops_with_case_and_signal(jobs: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"case_3.*SIGKILL"):
        map_cases(jobs.kill_itself_at_three, numbered(6), num_workers=2, description="w", progress=False)
    assert time.monotonic() - began < REPORT_LIMIT_S
    assert sum("SIGKILL" in r.getMessage() for r in caplog.records) == 2


def test_killed_twice_continues_with_the_other_results(jobs: ModuleType) -> None:
    result = map_cases(
        jobs.kill_itself_at_three,
        numbered(6),
        num_workers=2,
        description="w",
        progress=False,
        on_failure="continue",
    )
    assert list(result.results.values()) == [0, 1, 2, 4, 5]
    assert [(f.case, f.killed_by) for f in result.failures] == [("case_3", "SIGKILL")]


def test_case_waiting_for_its_second_try_is_named_when_another_failure_stops_the_map() -> None:
    def work(number: int) -> None:
        if number == 0:
            raise WorkerDied("SIGKILL", None)
        time.sleep(0.2)
        raise ValueError("no")

    with pytest.raises(WorkerError, match=r"(?s)case_1.*case_0.*SIGKILL"):
        map_cases(work, numbered(4), num_workers=1, description="w", progress=False, executor=ThreadExecutor(2))


def test_kill_from_outside_is_reported_in_time(jobs: ModuleType, tmp_path: Path) -> None:
    killed_at = 0.0

    def kill_one() -> None:
        nonlocal killed_at
        while not (found := list(tmp_path.glob("pid-*"))):
            time.sleep(0.01)
        killed_at = time.monotonic()
        os.kill(int(found[0].name.removeprefix("pid-")), signal.SIGKILL)

    class Messages(logging.Handler):
        reported_at = 0.0

        def emit(self, record: logging.LogRecord) -> None:
            if "sleeper" in record.getMessage() and "SIGKILL" in record.getMessage():
                self.reported_at = self.reported_at or time.monotonic()

    killer, messages = threading.Thread(target=kill_one), Messages()
    logger = logging.getLogger("nnunet_pt.core.workers")
    logger.addHandler(messages)
    killer.start()
    try:
        tasks = [CaseTask(case="sleeper", argument=(str(tmp_path), 0.4))]
        result = map_cases(jobs.announce_and_sleep, tasks, num_workers=2, description="w", progress=False)
    finally:
        logger.removeHandler(messages)
        killer.join()
    assert list(result.results) == ["sleeper"]
    assert 0 < messages.reported_at - killed_at < 2


def test_memory_error_is_tried_again_alone(jobs: ModuleType, tmp_path: Path) -> None:
    tasks = [CaseTask(case="large", argument=str(tmp_path / "marker"))]
    result = map_cases(jobs.out_of_memory_once, tasks, num_workers=1, description="w", progress=False)
    assert result.results == {"large": "done"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lambda_result", "lambda"),
        ("stubborn_error", "StubbornError: 1 and 2"),
        ("locked_error", "LockedError"),
        ("system_exit", "SystemExit: 7"),
        ("leave_without_a_word", "exit status 5"),
    ],
)
def test_no_way_of_failing_is_lost(jobs: ModuleType, name: str, expected: str) -> None:
    tasks = [CaseTask(case="odd", argument=5), CaseTask(case="also", argument=5)]
    result = map_cases(
        getattr(jobs, name), tasks, num_workers=1, description="w", progress=False, on_failure="continue"
    )
    assert {f.case for f in result.failures} == {"odd", "also"}
    assert expected in result.failures[0].reason


def test_argument_that_cannot_be_pickled_is_reported_for_its_case(jobs: ModuleType) -> None:
    tasks = [CaseTask(case="good", argument=1), CaseTask[Any](case="bad", argument=threading.Lock())]
    result = map_cases(jobs.echo, tasks, num_workers=1, description="w", progress=False, on_failure="continue")
    assert result.results == {"good": 1}
    assert [f.case for f in result.failures] == ["bad"]
    assert "pickle" in result.failures[0].reason


@pytest.mark.parametrize("function", [lambda x: x, threading.Lock().__enter__])
def test_function_that_cannot_be_sent_is_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(UsageError, match="cannot be sent"):
        map_cases(function, numbered(1), num_workers=1, description="w", progress=False)


def test_memory_budget_limits_what_runs_together(jobs: ModuleType, tmp_path: Path) -> None:
    sizes = {f"c{i}": size for i, size in enumerate([3, 1, 2, 3, 1, 2, 2, 1])}
    tasks = [
        CaseTask(case=n, argument=(str(tmp_path), n, 0.06), ram_bytes=size * GB // 1000) for n, size in sizes.items()
    ]
    map_cases(jobs.record_span, tasks, num_workers=4, max_ram_gb=0.004, description="w", progress=False)
    found = spans(tmp_path)
    assert set(found) == set(sizes)
    assert 2 <= most_at_once(found, sizes) <= 4


def test_case_above_the_budget_runs_alone_with_a_warning(
    jobs: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a", "b", "giant", "c", "d"]
    tasks = [CaseTask(case=n, argument=(str(tmp_path), n, 0.1), ram_bytes=2 * GB if n == "giant" else 0) for n in names]
    result = map_cases(jobs.record_span, tasks, num_workers=3, max_ram_gb=1.0, description="w", progress=False)
    assert list(result.results) == names
    assert overlaps(spans(tmp_path), "giant") == []
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "giant" in warning
    assert "2.0 GB" in warning
    assert "1.0 GB" in warning


def test_small_cases_pass_a_large_one_but_not_for_ever() -> None:
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        time.sleep(0.015 + 0.01 * (len(order) % 3))  # not in step, so that there is always a small one at work

    names = ["first", "large", *(f"small_{i}" for i in range(40))]
    sizes = {"large": 10}
    tasks = [CaseTask(case=n, argument=n, ram_bytes=sizes.get(n, 1) * GB) for n in names]
    map_cases(work, tasks, num_workers=1, max_ram_gb=10, description="w", progress=False, executor=ThreadExecutor(3))
    assert 1 < order.index("large") < 12


def test_budget_is_a_share_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "available_ram_bytes", lambda: 10 * GB)
    task = CaseTask(case="c", argument=1, ram_bytes=8 * GB)
    map_cases(abs, [task], num_workers=0, description="w", progress=False)
    assert not caplog.records
    map_cases(
        abs, [CaseTask(case="c", argument=1, ram_bytes=8 * GB + 1)], num_workers=0, description="w", progress=False
    )
    assert len(caplog.records) == 1


class ThreadExecutor:
    """Stands for another engine: runs calls in threads of this process."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.threads = 1
        self.ram_bytes: int | None = None
        self.closed = False

    def submit(self, function: Callable[[Any], Any], argument: Any, ram_bytes: int = 0) -> Future[Any]:  # noqa: ARG002
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(argument))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=run).start()
        return future

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def test_another_executor_takes_the_place_of_processes() -> None:
    engine = ThreadExecutor(2)
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03)
        with lock:
            running -= 1
        return -number

    result = map_cases(work, numbered(6), num_workers=9, description="w", progress=False, executor=engine)
    assert list(result.results.values()) == [0, -1, -2, -3, -4, -5]
    assert most == 2
    assert not engine.closed


def test_executor_is_used_for_several_maps(jobs: ModuleType) -> None:
    with LocalExecutor(1) as executor:
        first = map_cases(
            jobs.process_id, numbered(2), num_workers=1, description="w", progress=False, executor=executor
        )
        second = map_cases(
            jobs.process_id, numbered(2), num_workers=1, description="w", progress=False, executor=executor
        )
    assert len({*first.results.values(), *second.results.values()}) == 1


def test_error_of_the_callback_ends_the_workers(jobs: ModuleType, tmp_path: Path) -> None:
    def complain(case: str, _: object) -> None:
        raise OSError(f"no space for {case}")

    tasks = [CaseTask(case=f"c{i}", argument=(str(tmp_path), 0.2 if i == 0 else 60)) for i in range(2)]
    began = time.monotonic()
    with pytest.raises(OSError, match="no space for c0"):
        map_cases(jobs.announce_and_sleep, tasks, num_workers=2, description="w", progress=False, on_result=complain)
    assert time.monotonic() - began < 5
    assert_gone(pids(tmp_path))


def test_progress_is_one_line_without_a_terminal(jobs: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    map_cases(jobs.raise_for_three, numbered(5), num_workers=2, description="Counting", on_failure="continue")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Counting")]
    (line,) = lines
    assert line.startswith("Counting: 4/5, ")
    assert line.endswith("1 failed")


def pids(folder: Path) -> list[int]:
    return [int(p.name.removeprefix("pid-")) for p in folder.glob("pid-*")]


def assert_gone(processes: Sequence[int], within_s: float = 5.0) -> None:
    """No such process is left, apart from ones that only wait to be reaped by a foreign parent."""
    deadline = time.monotonic() + within_s
    left = list(processes)
    assert left
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if is_running(pid)]
        time.sleep(0.02)
    assert left == []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.fixture
def script(tmp_path: Path) -> subprocess.Popen[str]:
    """A user's script without a main guard, with two cases at work that take a minute."""
    path = tmp_path / "user_script.py"
    path.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import worker_tasks
            from nnunet_pt.core.workers import CaseTask, map_cases
            tasks = [CaseTask(case=f"c{{i}}", argument=({str(tmp_path)!r}, 60)) for i in range(4)]
            map_cases(worker_tasks.announce_and_sleep, tasks, num_workers=2, description="w")
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(path)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 10
    while len(pids(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_ctrl_c_ends_all_workers_and_leaves_no_unfinished_files(script: subprocess.Popen[str], tmp_path: Path) -> None:
    with script:
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does, to the workers, too
        messages = script.communicate(timeout=10)[1]
    assert messages.rstrip().endswith("KeyboardInterrupt")
    assert messages.count("Traceback") == 1
    assert len(pids(tmp_path)) == 2
    assert_gone(pids(tmp_path), within_s=0.5)
    assert list(tmp_path.glob(".partial*")) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(
    script: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    with script:
        script.send_signal(number)
        script.communicate(timeout=10)
    assert len(pids(tmp_path)) == 2
    assert_gone(pids(tmp_path))
    assert list(tmp_path.glob(".partial*")) == []
