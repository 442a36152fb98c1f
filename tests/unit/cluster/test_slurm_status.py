from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from slurm_world import cluster, commands, written

from nnunet_pt.cluster import slurm
from nnunet_pt.cluster.status import TaskStatus, status_of
from nnunet_pt.core.errors import NnunetError, StorageError, UnknownNameError, UsageError

FINGERPRINT, PLAN, PREPROCESS, TRAIN, BEST = range(5)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scripts of a cross-validation with four parts that were submitted; no SLURM."""
    scripts = written(tmp_path, cluster(parts=4))
    numbers = range(11, 16)
    lines = [f"{script.name} {number} {number - 1}" for script, number in zip(scripts.scripts, numbers, strict=True)]
    (scripts.folder / "submitted.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("PATH", commands(tmp_path / "bin", {}))
    return scripts.folder


def slurm_says(jobs: Path, queue: Mapping[str, str] | None, ended: str = "", sacct: str = "") -> None:
    """Stand-ins: the queue as task -> state and reason, what scontrol and sacct remember."""
    lines = [
        f"{task.partition('_')[0]}|{task.partition('_')[2] or 'N/A'}|{state}|{name}|{jobs}"
        for task, words in (queue or {}).items()
        for state, name in [words.split("@")]
    ]
    lines.append("99|N/A|RUNNING|None|plan_16|/somewhere/else")
    tools = {} if queue is None else {"squeue": f"cat <<'END'\n{chr(10).join(lines)}\nEND"}
    tools |= {"scontrol": f"echo '{ended}'" if ended else "exit 1", "sacct": f"echo '{sacct}'" if sacct else "exit 1"}
    commands(jobs.parents[1] / "bin", tools)


def note(jobs: Path, task: str, word: str, job: int, log: int | None = None, why: str = "") -> None:
    text = f"{word} {job} {log or job} node1 2026-01-01T00:00:00 {why}\n"
    (jobs / "states" / task).write_text(text, encoding="utf-8")


def states(jobs: Path, step: int) -> list[str]:
    return [task.state for task in status_of(jobs)[0].steps[step].tasks]


def first(jobs: Path, step: int) -> TaskStatus:
    return status_of(jobs)[0].steps[step].tasks[0]


def test_queue_and_notes_together_tell_how_far_tasks_are(jobs: Path) -> None:
    slurm_says(
        jobs,
        {
            "11_1": "RUNNING|None@fingerprint_16",
            "11_2": "PENDING|BeginTime@fingerprint_16",
            "11_3": "PENDING|Resources@fingerprint_16",
            "12": "PENDING|Dependency@plan_16",
        },
        ended="JobState=COMPLETED",
    )
    note(jobs, "fingerprint_16.0", "done", 20, 11)
    note(jobs, "fingerprint_16.1", "running", 21, 11)
    note(jobs, "fingerprint_16.2", "requeued", 22, 11)
    note(jobs, "fingerprint_16.3", "failed", 3, 3, "exit status 1")  # by a submission before this one
    assert states(jobs, FINGERPRINT) == ["done", "running", "requeued", "waiting"]
    assert states(jobs, PLAN) == ["waiting"]
    text = status_of(jobs.parent)[0].text()
    row = next(line for line in text.splitlines() if line.startswith("fingerprint_16"))
    assert row.split() == ["fingerprint_16", "0", "1", "2", "3", "on", "node1,", "(BeginTime),", "(Resources)"]
    assert "bash" not in text


def test_failed_tasks_show_the_end_of_their_log_and_how_to_do_them_again(jobs: Path) -> None:
    slurm_says(jobs, {})
    for task in range(4):
        note(jobs, f"preprocess_16.{task}", "failed" if task in (1, 3) else "done", 30 + task, 13, "exit status 1")
    log = "first\nError: old\nlong ago\n" + "line\n" * 20 + "Error: Cannot read a.nii.gz\n  found:    nothing\n"
    (jobs / "logs" / "preprocess_16_13_1.out").write_text(log, encoding="utf-8")
    (jobs / "logs" / "preprocess_16_13_3.out").write_text("\n".join(f"line {i}" for i in range(99)), encoding="utf-8")
    step = status_of(jobs)[0].steps[PREPROCESS]
    assert step.tasks[1].lines == ("Error: Cannot read a.nii.gz", "  found:    nothing")
    assert step.tasks[3].lines == tuple(f"line {i}" for i in range(93, 99))
    assert step.again() == "sbatch --array=1,3 03_preprocess_16.sh"
    text = status_of(jobs)[0].text()
    assert "preprocess_16, task 1 (job 31 on node1): failed: exit status 1\n    Error: Cannot read a.nii.gz" in text
    assert f"bash {jobs / 'submit.sh'}" in text


@pytest.mark.parametrize(
    ("remembered", "state", "why"),
    [
        ("JobId=11 JobState=CANCELLED Reason=None", "cancelled", ""),
        ("JobId=11 JobState=TIMEOUT", "failed", "time limit"),
        ("JobId=11 JobState=NODE_FAIL", "failed", "node failed"),
        ("JobId=11 JobState=OUT_OF_MEMORY", "failed", "--mem"),
        ("JobId=11 JobState=COMPLETED", "done", ""),
        ("", "failed", "has not said how it ended"),
    ],
)
def test_a_job_that_was_ended_from_outside_is_explained(jobs: Path, remembered: str, state: str, why: str) -> None:
    note(jobs, "plan_16", "running", 12)
    slurm_says(jobs, {}, ended=remembered)
    found = first(jobs, PLAN)
    assert found.state == state and why in found.why
    if remembered:
        slurm_says(jobs, {}, sacct=remembered.split("JobState=")[1].split()[0])
        assert first(jobs, PLAN).state == state


def test_jobs_behind_a_failed_one_are_cancelled(jobs: Path) -> None:
    note(jobs, "plan_16", "failed", 12, why="exit status 1")
    note(jobs, "best_16", "failed", 5, why="exit status 1")  # by a submission before this one
    slurm_says(jobs, {}, ended="JobState=CANCELLED")
    assert states(jobs, TRAIN) == ["cancelled"] * 2
    assert "a step before it" in first(jobs, BEST).why


def test_a_job_without_any_trace_points_to_the_folder(jobs: Path) -> None:
    slurm_says(jobs, {}, ended="JobState=FAILED")
    assert "perhaps its node does not see this folder" in first(jobs, PLAN).why


@pytest.mark.parametrize("why", ["exit status 143", "exit status 130"])
def test_a_stopped_command_was_cancelled_and_did_not_fail(jobs: Path, why: str) -> None:
    slurm_says(jobs, {})
    note(jobs, "plan_16", "failed", 12, why=why)
    assert first(jobs, PLAN).state == "cancelled"


def test_without_slurm_the_notes_count(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(jobs))
    note(jobs, "plan_16", "running", 12)
    assert states(jobs, PLAN) == ["running"]
    assert states(jobs, BEST) == ["waiting"]
    assert "SLURM cannot be asked on this machine" in status_of(jobs)[0].text()


def test_steps_are_what_the_scripts_say_now(jobs: Path) -> None:
    slurm_says(jobs, {})
    script = jobs / "04_train_16_3d_fullres.sh"
    text = script.read_text().replace("--array=0-1", "--array=0,2-6:2%2").replace("=train_16_3d_fullres", "=mine")
    script.write_text(text, encoding="utf-8")
    step = status_of(jobs)[0].steps[TRAIN]
    assert (step.name, [task.task for task in step.tasks]) == ("mine", [0, 2, 4, 6])


@pytest.mark.parametrize("name", ["-J 'my tests'", '--job-name "my tests"', "--job-name='my tests' --nice"])
@pytest.mark.parametrize("array", ["-a 0,2%1", "--array 0,2%1", "--mem=1G --array=0,2"])
def test_options_may_be_written_as_slurm_allows(jobs: Path, name: str, array: str) -> None:
    script = jobs / "04_train_16_3d_fullres.sh"
    text = script.read_text(encoding="utf-8")
    text = text.replace("--job-name=train_16_3d_fullres", f"{name}  # not -J this -a 7").replace("--array=0-1", array)
    script.write_text(text, encoding="utf-8")
    slurm_says(jobs, {"14_0": "RUNNING|None@my tests"}, ended="JobState=COMPLETED")
    note(jobs, "my tests.2", "done", 14)
    step = status_of(jobs)[0].steps[TRAIN]
    assert (step.name, [task.task for task in step.tasks]) == ("my tests", [0, 2])
    assert [task.state for task in step.tasks] == ["running", "done"]


def test_damaged_notes_count_as_none(jobs: Path) -> None:
    slurm_says(jobs, {}, ended="JobState=COMPLETED")
    (jobs / "states" / "plan_16").write_bytes(b"\x00\xff\xfe")
    assert states(jobs, PLAN) == ["done"]
    (jobs / "submitted.txt").write_bytes(b"\xff\x00")
    assert states(jobs, BEST) == ["not submitted"]


def test_a_script_that_cannot_be_read_is_named(jobs: Path) -> None:
    (jobs / "06_more.sh").symlink_to("nowhere")
    with pytest.raises(StorageError, match=r"06_more\.sh"):
        status_of(jobs)


def test_commands_can_be_copied_and_tasks_with_one_cause_take_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my folder"
    folder.mkdir()
    jobs = written(folder, cluster(parts=4)).folder
    (jobs / "submitted.txt").write_text("03_preprocess_16.sh 13 12\n", encoding="utf-8")
    monkeypatch.setenv("PATH", commands(folder / "bin", {}))
    slurm_says(jobs, {}, ended="JobState=CANCELLED")
    text = status_of(jobs)[0].text()
    assert f"bash '{jobs}/submit.sh'" in text
    assert text.count("preprocess_16, task") == 1 and "preprocess_16, tasks 0,1,2,3 (job 13): cancelled" in text


def test_scripts_that_were_never_submitted(jobs: Path) -> None:
    slurm_says(jobs, {})
    (jobs / "submitted.txt").unlink()
    assert {s for step in range(5) for s in states(jobs, step)} == {"not submitted"}


def test_a_folder_without_scripts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no job scripts"):
        status_of(tmp_path)


def test_partitions_are_only_checked_where_slurm_can_be_asked(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(jobs.parents[1] / "bin", {"sinfo": "printf 'cpu\\ngpu\\n'"})
    slurm.check_partitions(["gpu", "cpu"])
    with pytest.raises(UnknownNameError, match="did you mean gpu"):
        slurm.check_partitions(["cpu", "gpus"])
    monkeypatch.setenv("PATH", str(jobs))
    slurm.check_partitions(["gpus"])


def test_submitting_without_sbatch_is_refused(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(jobs))
    with pytest.raises(NnunetError, match="no sbatch"):
        slurm.submit(jobs / "submit.sh")
