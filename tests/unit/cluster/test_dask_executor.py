"""Cases on a real Dask cluster: a scheduler and two workers, each in a process of its own."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask_tasks
import pytest
from dask_tasks import DaskProcesses, dask_processes
from distributed.versions import get_versions

from nnunet_pt.cluster import dask_checks, dask_executor
from nnunet_pt.cluster.dask_checks import SharedFolders, check_versions, connected, look_at, require_dask
from nnunet_pt.cluster.dask_executor import DaskExecutor
from nnunet_pt.core.errors import ImageError, UsageError, WorkerError
from nnunet_pt.core.executor import RemoteTraceback
from nnunet_pt.core.workers import CaseTask, map_cases

pytestmark = pytest.mark.xdist_group("dask")
GB = 2**30


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """Two workers with two threads and 1 GB of memory."""
    with dask_processes(tmp_path_factory.mktemp("dask")) as processes:
        for _ in range(2):
            processes.start_worker("--nthreads", "2", "--memory-limit", "1GiB")
        yield processes


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "POLL_S", 0.1)


@pytest.fixture
def failed_connections() -> Iterator[None]:
    """They leave a socket of Dask behind, for the garbage collection."""
    yield
    gc.collect()


def executor_of(cluster: DaskProcesses, folder: Path, **options: Any) -> DaskExecutor:
    return DaskExecutor(
        connected(cluster.address), SharedFolders(written=folder), name="Dask", advice="start some", **options
    )


@pytest.fixture
def executor(cluster: DaskProcesses, tmp_path: Path) -> Iterator[DaskExecutor]:
    """Both workers, without a case on them."""
    with executor_of(cluster, tmp_path) as made:
        assert isinstance(made, DaskExecutor)
        wait_for(lambda: made.slots == 4)
        yield made


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(function: Any, arguments: list[Any], executor: Any, ram_bytes: int = 0, **options: Any) -> Any:
    tasks = [CaseTask(case=f"case_{i}", argument=a, ram_bytes=ram_bytes) for i, a in enumerate(arguments)]
    return map_cases(function, tasks, num_workers=1, description="work", progress=False, executor=executor, **options)


def test_results_and_errors_are_those_of_local_processes(executor: DaskExecutor) -> None:
    result = run(dask_tasks.fail_at_three, list(range(8)), executor, on_failure="continue")
    assert result.results == {f"case_{i}": i for i in (0, 1, 2, 5, 6, 7)}
    failures = {failure.case: failure for failure in result.failures}
    assert isinstance(failures["case_3"].error, ImageError) and failures["case_3"].error.remedy == "copy it again"
    assert failures["case_4"].reason == "ValueError: four is odd" and "in fail_at_three" in failures["case_4"].details
    with pytest.raises(WorkerError, match=r"case_1.*four is odd") as caught:
        run(dask_tasks.fail_at_three, [0, 4], executor)
    assert isinstance(caught.value.__cause__, RemoteTraceback)


def test_what_a_task_says_is_said_here(executor: DaskExecutor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nnunet_pt"):
        run(dask_tasks.say_something, ["spacing"], executor)
    said = [(r.name, r.levelname, r.getMessage()) for r in caplog.records]
    assert said[0] == ("nnunet_pt.tasks", "WARNING", "spacing is strange")
    assert said[1][1] == "WARNING" and "UserWarning: spacing is old" in said[1][2]
    assert len(said) == 2


def test_libraries_get_no_more_threads_than_their_share(executor: DaskExecutor) -> None:
    share = max(1, len(os.sched_getaffinity(0)) // 4)
    found = run(dask_tasks.thread_variables, [0], executor).results["case_0"]
    assert all(value is not None and int(value) <= share for value in found)
    assert executor.threads == share


def test_a_killed_case_does_not_take_the_worker_along(executor: DaskExecutor, caplog: pytest.LogCaptureFixture) -> None:
    result = run(dask_tasks.kill_itself_at_three, list(range(6)), executor, on_failure="continue")
    assert len(result.results) == 5
    (failure,) = result.failures
    assert failure.killed_by == "SIGKILL" and failure.reason.endswith("when it ran alone, too")
    assert executor.slots == 4 and "will be run again, alone" in caplog.text


def test_a_lost_worker_costs_its_case_only(
    cluster: DaskProcesses, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [tmp_path / name for name in ("a", "fatal", *map(str, range(12)))]
    with executor_of(cluster, tmp_path) as executor:
        wait_for(lambda: executor.slots == 4)
        tasks = [CaseTask(case=f.name, argument=str(f)) for f in files]
        result = map_cases(
            dask_tasks.kill_dask_worker_once,
            tasks,
            num_workers=1,
            description="work",
            progress=False,
            executor=executor,
        )
        assert list(result.results) == [f.name for f in files] and not result.failures
        lost = re.search(
            r"case fatal: the Dask worker (tcp://\S+) on \S+ was lost. It will be run again, alone", caplog.text
        )
        assert lost is not None and cluster.address != lost[1]
        killed = (tmp_path / "fatal").read_text().split()[0]
        for file in files:
            runs = file.read_text().split()
            # What ran beside it on the same worker is repeated, too (1: that was gone already); nothing else is
            assert len(runs) == 1 or (len(runs) == 2 and runs[0] in (killed, "1"))
        assert len((tmp_path / "fatal").read_text().split()) == 2
        wait_for(lambda: executor.slots == 4)  # the nanny has started another one, which is used


def test_cases_go_where_there_is_memory_for_them(
    executor: DaskExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert executor.ram_bytes == 2 * int(0.8 * GB)
    files = [tmp_path / str(i) for i in range(4)]
    run(dask_tasks.record_span, list(map(str, files)), executor, ram_bytes=int(0.5 * GB))
    spans: dict[str, list[tuple[float, float]]] = {}
    for file in files:
        worker, began, ended = file.read_text().split()
        spans.setdefault(worker, []).append((float(began), float(ended)))
    assert len(spans) == 2  # both workers, and on each one after the other
    for together in map(sorted, spans.values()):
        assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(together))
    assert not caplog.records
    run(dask_tasks.record_span, [str(tmp_path / "large")], executor, ram_bytes=int(1.2 * GB))
    assert "needs about 1.2 GB" in caplog.text and "alone there" in caplog.text


def test_closing_ends_what_runs_and_leaves_nothing(cluster: DaskProcesses, tmp_path: Path) -> None:
    with executor_of(cluster, tmp_path) as executor:
        future = executor.submit(dask_tasks.sleep_with_an_open_file, str(tmp_path))
        wait_for(lambda: list(tmp_path.glob("pid-*")))
        assert list(tmp_path.glob(".partial-*result*"))
    with pytest.raises(Exception, match="SIGTERM"):
        future.result(0)
    (pid,) = (p.name.removeprefix("pid-") for p in tmp_path.glob("pid-*"))
    wait_for(lambda: not Path("/proc", pid).exists())
    assert not list(tmp_path.glob(".partial-*"))


def test_preprocessing_equals_that_of_one_machine(three: Any, executor: DaskExecutor, tmp_path: Path) -> None:
    three.description["numTraining"] = 3
    three.describe()
    other = type(three)(tmp_path / "other", description=three.description, plans=three.plans)
    shutil.copytree(three.root / "raw", other.root / "raw")
    shutil.copytree(three.root / "preprocessed", other.root / "preprocessed")
    for dataset, options in ((three, {}), (other, {"executor": executor})):
        dataset.fingerprint(verify_integrity=True, **options)
        dataset.preprocess("2d", "3d_fullres", **options)
    assert three.contents() == other.contents() and len(three.contents()) > 12
    again = other.preprocess("2d", executor=executor).configurations[0]
    assert (again.made, again.kept) == ((), ("a1", "b2", "c3"))


def test_files_that_a_worker_does_not_see(
    cluster: DaskProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_checks, "VISIBLE_S", 0.0)
    missing = SharedFolders(read=(tmp_path / "Dataset007",), written=tmp_path)
    with pytest.raises(WorkerError, match=r"worker tcp://\S+ on \S+ does not see") as caught:
        DaskExecutor(connected(cluster.address), missing, name="Dask", advice="start some")
    assert "Dataset007 there" in str(caught.value.found)
    with connected(cluster.address) as client, SharedFolders(written=tmp_path).marked() as (path, _):
        usable, wrong = look_at(client, list(client.nthreads()), SharedFolders(written=tmp_path), (path, "another"))
    assert not usable and len(wrong) == 2
    assert all("folder of its own" in error.problem for error in wrong.values())
    assert not list(tmp_path.iterdir())


def test_a_worker_without_this_package(
    cluster: DaskProcesses, executor: DaskExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = cluster.start_worker("--nthreads", "1", "--no-nanny", before="sys.modules['nnunet_pt'] = None")
    try:
        wait_for(lambda: "It is not used" in caplog.text)
        assert "cannot import nnunet_pt" in caplog.text and executor.slots == 4
        assert run(dask_tasks.fail_at_three, [0, 1], executor).results == {"case_0": 0, "case_1": 1}
        with pytest.raises(WorkerError, match=r"worker tcp://\S+ cannot import nnunet_pt"):
            executor_of(cluster, tmp_path)
    finally:
        stranger.terminate()
        stranger.wait(20)
    wait_for(lambda: "left" in caplog.text or len(executor._crew) == 2)


class Versions:
    """Stands for a client whose cluster has other software."""

    def __init__(self, **others: dict[str, str]) -> None:
        usual = {"python": "3.11.7.final.0", "dask": "2026.8.0", "distributed": "2026.8.0", "nnunet-pt": "0.1.0"}
        self.found = {name: {"packages": {**usual, **others.get(name, {})}} for name in ("client", "scheduler")}
        self.workers = {
            "tcp://a:1": {"packages": usual},
            "tcp://b:2": {"packages": {**usual, **others.get("worker", {})}},
        }

    def get_versions(self, packages: list[str]) -> dict[str, Any]:
        assert packages == ["nnunet-pt"]
        return {**self.found, "workers": self.workers}


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("dask", "2024.1.0", "dask 2024.1.0"),
        ("distributed", "2024.1.0", "distributed 2024.1.0"),
        ("python", "3.10.1.final.0", "Python 3.10"),
        ("nnunet-pt", "0.0.9", "nnunet-pt 0.0.9"),
    ],
)
def test_other_versions_are_named(package: str, version: str, said: str) -> None:
    problems = check_versions(Versions(worker={package: version}))  # type: ignore[arg-type]
    assert list(problems) == ["tcp://b:2"]
    error = problems["tcp://b:2"]
    assert "worker tcp://b:2" in error.problem and error.found == said and error.expected != said


@pytest.mark.parametrize("package", ["dask", "distributed"])
def test_a_scheduler_of_another_version(package: str, cluster: DaskProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = get_versions()
    monkeypatch.setattr(
        "distributed.versions.get_versions", lambda: {"packages": {**mine["packages"], package: "2020.1.0"}}
    )
    with pytest.raises(WorkerError, match=f"scheduler {cluster.address} has another version of {package}") as caught:
        connected(cluster.address)
    assert caught.value.expected == f"{package} 2020.1.0"


@pytest.mark.usefixtures("failed_connections")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_something_else_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_checks, "CONNECT_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with contextlib.suppress(OSError):  # the end of the test
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
                        connection.recv(1000)

        threading.Thread(target=greet, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(WorkerError, match="cannot be reached"):
            connected(f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 10
        server.shutdown(socket.SHUT_RDWR)


def test_the_same_minor_version_of_python_is_enough() -> None:
    assert not check_versions(Versions(worker={"python": "3.11.9.final.0"}))  # type: ignore[arg-type]


@pytest.mark.usefixtures("failed_connections")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_no_scheduler_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dask_checks.CONNECT_S <= 5
    monkeypatch.setattr(dask_checks, "CONNECT_S", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(WorkerError, match=f"{address} cannot be reached") as caught:
            connected(address)
    assert time.monotonic() - began < 5 and "dask scheduler" in str(caught.value.remedy)


@pytest.mark.parametrize("address", ["host", "http://host:8786", "tcp://host", "host:port"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        connected(address)


def test_no_workers_and_a_lost_scheduler(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with dask_processes(tmp_path) as lonely:
        caplog.set_level(logging.INFO)
        with pytest.raises(WorkerError, match="Dask has no workers") as caught:
            executor_of(lonely, tmp_path, patience_s=0.3)
        assert caught.value.remedy == "start some" and "Dask has no workers: start some" in caplog.text
        lonely.start_worker("--nthreads", "1", "--no-nanny")
        with executor_of(lonely, tmp_path) as executor:
            future = executor.submit(dask_tasks.sleep_with_an_open_file, str(tmp_path))
            wait_for(lambda: list(tmp_path.glob("pid-*")))
            lonely.scheduler.kill()
            with pytest.raises(WorkerError, match="Dask: the connection was lost"):
                future.result(60)
            with pytest.raises(WorkerError, match="Dask: the connection was lost"):
                _ = executor.slots
        lonely.workers[0].kill()  # it would look for its scheduler for a while


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dask_jobqueue", None)
    require_dask("--dask")
    with pytest.raises(UsageError, match="--dask_slurm needs packages") as caught:
        require_dask("--dask_slurm", jobs=True)
    assert caught.value.remedy == "pip install 'nnunet-pt[cluster]'"


def test_functions_that_cannot_be_sent(executor: DaskExecutor) -> None:
    with pytest.raises(UsageError, match="cannot be sent"):
        executor.submit(lambda x: x, 1)
    with contextlib.closing(executor), pytest.raises(Exception, match="pickle"):
        executor.submit(dask_tasks.fail_at_three, lambda: 0).result(5)
