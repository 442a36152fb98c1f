"""Started as one of several processes: torchrun, SLURM's srun, and what only looks like it."""

from __future__ import annotations

import pytest

from nnunet_pt.core.errors import SettingsError
from nnunet_pt.core.settings import Launch, Settings, first_host

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29401",
}
SRUN = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}
SBATCH = {
    "SLURM_JOB_ID": "1234",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_TASKS_PER_NODE": "4",
    "SLURM_JOB_NODELIST": "gpu07",
}


def test_alone() -> None:
    assert Launch.from_environment({}) is None
    assert Settings.from_environment({}).launch is None


def test_torchrun() -> None:
    expected = Launch(
        rank=3, world_size=4, local_rank=1, local_size=2, address="node1", port=29401, launcher="torchrun"
    )
    assert Launch.from_environment(TORCHRUN) == expected
    assert Settings.from_environment(TORCHRUN).launch == expected


def test_torchrun_within_slurm_counts() -> None:
    launch = Launch.from_environment({**SRUN, **TORCHRUN})
    assert launch is not None and launch.launcher == "torchrun"


def test_rank_without_world_size_is_somebody_elses() -> None:
    assert Launch.from_environment({"RANK": "3"}) is None
    assert Launch.from_environment({"WORLD_SIZE": "4"}) is None


def test_srun() -> None:
    launch = Launch.from_environment(SRUN)
    assert launch is not None
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_size) == (5, 8, 1, 4)
    assert (launch.address, launch.launcher) == ("gpu07", "srun")
    assert 20000 <= launch.port < 40000


def test_srun_gives_all_processes_the_same_meeting_point_and_each_step_its_own() -> None:
    ports = set()
    for step in range(20):
        places = set()
        for rank in range(4):
            launch = Launch.from_environment({**SRUN, "SLURM_STEP_ID": str(step), "SLURM_PROCID": str(rank)})
            assert launch is not None
            places.add((launch.address, launch.port))
        assert len(places) == 1
        ports |= {port for _, port in places}
    assert len(ports) == 20


def test_srun_with_a_meeting_point_of_the_users() -> None:
    launch = Launch.from_environment({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert launch is not None and (launch.address, launch.port) == ("10.0.0.1", 4000)


@pytest.mark.parametrize("more", [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_ID": "0"}])
def test_a_batch_script_stands_alone_whatever_its_job_has(more: dict[str, str]) -> None:
    assert Launch.from_environment({**SBATCH, **more}) is None


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("WORLD_SIZE", "0"), ("LOCAL_RANK", "-1")])
def test_impossible_numbers(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Launch.from_environment({**TORCHRUN, name: value})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[3-5]", "node3"),
        ("node[07-09,12]", "node07"),
        ("node[12,14-15],login1", "node12"),
        ("rack1-[2-3]-gpu", "rack1-2-gpu"),
        ("a-b-01", "a-b-01"),
        ("login1,node[3-5]", "login1"),
        ("c[1-2].cluster.org,d1", "c1.cluster.org"),
    ],
)
def test_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
