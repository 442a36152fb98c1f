"""Cases on workers of Dask that are jobs of SLURM."""

from __future__ import annotations

import os
from pathlib import Path

from slurm_jobs import PROJECT, World

# A worker of Dask and a process for the case do not fit into the little memory that most tests ask for
SETTINGS = 'venv = ""\n[cases]\ncpus = 1\nmem = "700M"\ntime = "10:00"\n'


def test_preprocessing_on_jobs_equals_that_of_one_machine(planned: World) -> None:
    data = "Dataset902_PhantomFinetune"
    alone = planned.contents(data)
    folder = planned.root / "nnUNet_preprocessed" / data
    for file in (folder / "nnUNetPlans_2d").iterdir():
        file.unlink()
    (planned.root / "cluster.toml").write_text(SETTINGS, encoding="utf-8")
    paths = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    words = ("nnUNetv2_preprocess", "-d", "902", "-c", "2d", "--dask_slurm", "2", "-cluster", "cluster.toml")
    said = planned.run(*words, PYTHONPATH=paths, DASK_CONFIG=str(planned.root))
    assert "Submitted 2 jobs to SLURM" in said and "Dask on 2 jobs of SLURM: " in said
    assert planned.contents(data) == alone and any(name.endswith(".b2nd") for name in alone)
    queue = planned.run("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%j|%Z")
    assert not [line for line in queue.splitlines() if line == f"nnunet_dask|{planned.root}"]
    assert list(Path(planned.root, "dask_slurm_logs").glob("*.out"))
