from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from slurm_world import commands

from nnunet_pt.cluster.settings import KINDS, ClusterSettings, load_cluster_settings, seconds_of
from nnunet_pt.cluster.slurm import LargestNode, largest_node
from nnunet_pt.core.errors import NnunetError, SettingsError, StorageError, UsageError


def load(file: Path | None = None, *, training: dict[str, Any] | None = None, **flags: Any) -> ClusterSettings:
    return load_cluster_settings(file, flags=flags, training_flags=training or {})


def toml(folder: Path, text: str) -> Path:
    file = folder / "cluster.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_file_and_flags_jobs_ask_for_usual_values() -> None:
    settings = load()
    assert settings.resources["training"].gpus == "1"
    assert settings.resources["cases"].num_gpus == settings.resources["short"].num_gpus == 0
    assert settings.partitions() == ()
    assert (settings.parts, settings.signal_s, settings.venv) == (1, 300, None)


def test_sections_count_more_than_what_is_above_and_flags_count_most(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        """
        partition = "cpu"
        mem = "10G"
        parts = 8
        modules = ["python/3.12"]
        options = ["--qos=long"]
        [training]
        partition = "gpu,gpu-long"
        gpus = "a100:2"
        time = "2-00:00:00"
        [short]
        cpus = 1
        """,
    )
    settings = load(file, mem="20G", training={"nodes": 3}, account=None)
    training, cases, short = (settings.resources[kind] for kind in ("training", "cases", "short"))  # type: ignore[index]
    assert (training.partition, training.gpus, training.num_gpus, training.nodes) == ("gpu,gpu-long", "a100:2", 2, 3)
    assert (training.time, training.mem, training.options) == ("2-00:00:00", "20G", ("--qos=long",))
    assert (cases.partition, cases.mem, cases.nodes, cases.cpus) == ("cpu", "20G", 1, 8)
    assert (short.cpus, short.account) == (1, None)
    assert (settings.parts, settings.modules) == (8, ("python/3.12",))
    assert set(settings.partitions()) == {"cpu", "gpu", "gpu-long"}


def test_everything_wrong_with_a_file_is_said_at_once(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        'partitoin = "gpu"\ncpus = 0\nmem = "lots"\ncases = 3\n'
        '[training]\ngpus = "many"\nparts = 2\noptions = "--qos=x"\ntime = "soon"\n[short]\ngpus = 1\n',
    )
    with pytest.raises(SettingsError) as raised:
        load(file)
    text = raised.value.text()
    for part in (
        str(file),
        "partitoin is unknown",
        "cpus is 0",
        "mem is 'lots'",
        "[training] gpus is 'many'",
        "[training] parts is unknown here; it belongs above all sections",
        "[training] options is '--qos=x'",
        "[training] time is 'soon'",
        "[short] gpus is unknown here; it belongs in the section [training]",
        "a section [cases]",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("content", "error"), [(None, StorageError), ("partition = gpu", SettingsError), ("\x00", SettingsError)]
)
def test_unreadable_files_are_named(tmp_path: Path, content: str | None, error: type[NnunetError]) -> None:
    file = tmp_path / "cluster.toml"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(error, match=r"cluster\.toml"):
        load(file)


@pytest.mark.parametrize(
    ("flags", "training"),
    [
        ({"time": "1 day"}, {}),
        ({"mem": "48 GB"}, {}),
        ({"partition": "gpu; rm"}, {}),
        ({}, {"gpus": "a100"}),
    ],
)
def test_unusable_flags_are_refused(flags: dict[str, Any], training: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        load(training=training, **flags)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("2-12", 216000),
        ("1-00:30", 88200),
        ("1-01:00:05", 90005),
    ],
)
def test_time_limits_are_read_as_slurm_does(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


def test_a_job_that_could_only_save_is_refused() -> None:
    with pytest.raises(SettingsError, match="would do nothing but save"):
        load(time="5")


def test_the_own_environment_is_used_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    def venv(text: str) -> Path | None:
        return load_cluster_settings(toml(tmp_path, text), flags={}, training_flags={}, own_venv=Path("/own")).venv

    assert venv("") == Path("/own")
    assert venv('venv = ""') is None
    assert venv('venv = "/other"') == Path("/other")


def test_gpus_need_as_many_cpus_on_several_nodes() -> None:
    with pytest.raises(SettingsError, match="fewer CPUs than GPUs"):
        load(cpus=2, training={"nodes": 2, "gpus": "4"})


@pytest.mark.parametrize("text", ["a b", 'a"b', "$(date)", ""])
def test_what_is_no_folder_on_a_node_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="scratch is"):
        load(toml(tmp_path, f"scratch = {text!r}"))


def test_a_folder_on_a_node_may_have_variables(tmp_path: Path) -> None:
    assert load(toml(tmp_path, 'scratch = "/local/$USER"')).scratch == "/local/$USER"
    assert load().scratch is None


# ---------------------------------------------------------------- no more than nodes have


@pytest.mark.parametrize(
    ("said", "partition", "expected"),
    [
        ("main*|2|2000|(null)", None, ("main", 2, 2000, 0)),
        (
            "cpu*|64|512000|(null)\ngpu|32|256000|gpu:4",
            None,
            ("cpu", 64, 512000, 0),
        ),
        (
            "gpu|32+|256000+|gpu:a100:4(S:0-1)\ngpu|16|128000|gpu:2",
            "gpu",
            ("gpu", 32, 256000, 4),
        ),
        ("gpu|8|1|gpu:a100:1,gpu:v100:2", "gpu", ("gpu", 8, None, 3)),
        ("gpu|8|1000|gpu:h100", "gpu", ("gpu", 8, 1000, 1)),
        ("cpu|64|512000|(null)", None, None),
        ("main", "main", None),
        ("", "main", None),
    ],
)
def test_what_nodes_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    partition: str | None,
    expected: tuple[object, ...] | None,
) -> None:
    asked = tmp_path / "asked"
    monkeypatch.setenv("PATH", commands(tmp_path / "bin", {"sinfo": f"echo \"$@\" > {asked}; echo '{said}'"}))
    found = largest_node(partition)
    assert (found if found is None else astuple(found)) == expected
    assert ("--partition=" in asked.read_text()) is (partition is not None)


def test_jobs_ask_for_no_more_than_nodes_have_unless_the_user_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = LargestNode(partition="main", cpus=2, mem_mb=2000, gpus=0)
    asked = []

    def ask(partition: str | None) -> LargestNode:
        asked.append(partition)
        return small

    text = "[training]\npartition = 'other'\ncpus = 6\n[cases]\nmem = '9G'\n[short]\ncpus = 3\nmem = '1G'\n"
    found = load_cluster_settings(toml(tmp_path, text), flags={}, training_flags={}, largest_node=ask).resources
    assert [(found[kind].cpus, found[kind].mem) for kind in KINDS] == [(2, "9G"), (6, "2000M"), (3, "1G")]
    assert found["training"].num_gpus == 0
    assert asked == [None, "other"]  # nothing is open for short steps
    assert "have no GPUs" in caplog.text
    caplog.clear()
    found = load_cluster_settings(None, flags={}, training_flags={"gpus": "2"}, largest_node=ask).resources
    assert found["training"].num_gpus == 2 and "GPUs" not in caplog.text


def test_memory_that_slurm_does_not_know_is_left_to_it() -> None:
    large = LargestNode(partition="main", cpus=64, mem_mb=None, gpus=8)
    found = load_cluster_settings(None, flags={}, training_flags={}, largest_node=lambda _: large).resources
    assert [(found[kind].cpus, found[kind].mem, found[kind].gpus) for kind in KINDS] == [
        (8, None, "0"),
        (12, None, "1"),
        (4, None, "0"),
    ]
