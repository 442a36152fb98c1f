"""What jobs ask a cluster for: from ``cluster.toml``, from arguments, or else usual values."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from nnunet_pt.cluster.slurm import LargestNode
from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import SettingsError, UsageError
from nnunet_pt.core.files import storage_error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["cases", "training", "short"]
_log = get_logger(__name__)
KINDS: tuple[Kind, ...] = get_args(Kind)
_MEMORY_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# What SLURM calls minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and so on
_TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+)(?::(\d+))?)?|(\d+)(?::(\d+)(?::(\d+))?)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job asks for; None leaves it to the cluster's defaults.

    Attributes:
        partition: Partition, or several with commas.
        account: Whom it is charged to.
        gpus: GPUs on each node, ``2`` or ``a100:2``; only for trainings.
        nodes: Machines that work on one training together.
        cpus: CPUs on each node.
        mem: Memory on each node, as SLURM writes it: ``48G``.
        time: Time limit, as SLURM writes it: ``24:00:00`` or ``2-00:00:00``.
        options: More options of ``sbatch``, each as it is written: ``--qos=long``.
    """

    partition: str | None = None
    account: str | None = None
    gpus: str = "0"
    nodes: int = 1
    cpus: int | None = None
    mem: str | None = None
    time: str | None = None
    options: tuple[str, ...] = ()

    @property
    def num_gpus(self) -> int:
        """GPUs on each node."""
        return int(self.gpus.rpartition(":")[2])


_USUAL: Mapping[Kind, Resources] = {
    "cases": Resources(cpus=8, mem="48G", time="12:00:00"),
    "training": Resources(gpus="1", cpus=12, mem="48G", time="24:00:00"),
    "short": Resources(cpus=4, mem="16G", time="02:00:00"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """All that is particular about a cluster.

    Attributes:
        resources: What each kind of job asks for: work on cases, trainings, and steps of minutes in between.
        parts: Jobs among which the cases of a dataset are shared out.
        signal_s: Seconds before the time limit at which a job begins to save and is queued again.
        modules: Environment modules to load.
        venv: Virtual environment to activate.
        setup: More lines of bash at the beginning of each job.
        scratch: Folder on a disk of each node to which trainings copy their cases; may contain variables of bash.
    """

    resources: Mapping[Kind, Resources] = field(default_factory=lambda: dict(_USUAL))
    parts: int = 1
    signal_s: int = 300
    modules: tuple[str, ...] = ()
    venv: Path | None = None
    setup: tuple[str, ...] = ()
    scratch: str | None = None

    def __post_init__(self) -> None:
        for kind, wanted in self.resources.items():
            limit_s = seconds_of(wanted.time) if wanted.time else None
            if limit_s is not None and limit_s < 2 * self.signal_s:
                raise SettingsError(
                    f"A job of the kind {kind!r} would do nothing but save and be queued again.",
                    found=f"a time limit of {wanted.time} and signal_s = {self.signal_s}",
                    expected=f"a time limit of at least {2 * self.signal_s} s, twice signal_s",
                    remedy="ask for more time, or set a smaller signal_s in cluster.toml",
                )
        training = self.resources["training"]
        share = max(1, training.num_gpus)
        if training.nodes > 1 and training.cpus is not None and training.cpus < share:
            raise SettingsError(
                "A training has fewer CPUs than GPUs on each node.", found=f"{training.cpus} CPUs, {share} GPUs"
            )

    def partitions(self) -> tuple[str, ...]:
        """All partitions that jobs are sent to."""
        names = [name for r in self.resources.values() if r.partition for name in r.partition.split(",")]
        return tuple(dict.fromkeys(names))


def load_cluster_settings(
    file: Path | None,
    *,
    flags: Mapping[str, Any],
    training_flags: Mapping[str, Any],
    own_venv: Path | None = None,
    largest_node: Callable[[str | None], LargestNode | None] = lambda _: None,
) -> ClusterSettings:
    """Settings from a file and from arguments, which count more.

    Args:
        file: A file like ``cluster.toml``; None for usual values.
        flags: Values for all jobs, or of the settings themselves, by their names; None is no value.
        training_flags: Values for trainings alone.
        own_venv: The virtual environment to activate if nothing else is said.
        largest_node: Tells what the nodes of a partition have; jobs do not ask for more unless the user does.

    Raises:
        SettingsError: With everything that is wrong with the file.
        UsageError: If a value of an argument is not usable.
    """
    content = {} if file is None else _content(file)
    given = {name: value for name, value in flags.items() if value is not None}
    for_trainings = {name: value for name, value in training_flags.items() if value is not None}
    problems = [*_problems(given, "", _ALL), *_problems(for_trainings, "", _TRAINING)]
    if problems:
        raise UsageError("\n".join(problems), remedy="correct the arguments")
    resources = {}
    for kind in KINDS:
        values = {**_resources(content), **_resources(content.get(kind, {})), **_resources(given)}
        values |= for_trainings if kind == "training" else {}
        usual = _USUAL[kind]
        if {"cpus", "mem", *(("gpus",) if kind == "training" else ())} - set(values):
            usual = _fitted(usual, largest_node(values.get("partition")), says_gpus="gpus" in values)
        resources[kind] = replace(usual, **_as_tuples(values))
    own = {name: value for name, value in {**content, **given}.items() if name in _OWN}
    venv = own.pop("venv", None)
    own["venv"] = own_venv if venv is None else Path(venv).expanduser().absolute() if venv else None
    return ClusterSettings(resources=resources, **_as_tuples(own))


def _fitted(usual: Resources, node: LargestNode | None, *, says_gpus: bool) -> Resources:
    """Usual values, but no more than nodes have: SLURM would refuse the job, or let it wait for ever."""
    if node is None:
        return usual
    if usual.num_gpus and not node.gpus and not says_gpus:
        _log.warning(
            "The nodes of %s have no GPUs, so trainings will compute on CPUs, which takes days. If others have some, "
            "name them (-partition, -gpus, or cluster.toml).",
            node.partition,
        )
        usual = replace(usual, gpus="0")
    mem = usual.mem
    if node.mem_mb is None:
        mem = None
    elif mem is not None and node.mem_mb * _MEMORY_UNITS["M"] < memory_bytes(mem):
        mem = f"{node.mem_mb}M"
    return replace(usual, mem=mem, cpus=min(usual.cpus or node.cpus, node.cpus) or None)


def memory_bytes(text: str) -> int:
    """Memory as SLURM writes it, in bytes; without a unit these are megabytes."""
    unit = text[-1].upper()
    return int(text[:-1]) * _MEMORY_UNITS[unit] if unit in _MEMORY_UNITS else int(text) * _MEMORY_UNITS["M"]


def seconds_of(time: str) -> int:
    """A time limit of SLURM in seconds."""
    match = _TIME.fullmatch(time)
    if match is None:
        raise SettingsError("That is no time limit.", found=repr(time), expected=_EXPECTED_TIME)
    days, hours, minutes, seconds, first, second, third = (int(group or 0) for group in match.groups())
    if match.group(1) is not None:
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if match.group(7) is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second


_EXPECTED_TIME = "a time limit like 90 (minutes), 24:00:00 or 2-00:00:00"


def _is_word(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.,@:/+=-]+", value) is not None


def _is_folder(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"""[^\s"'`\\()]+""", value) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_lines(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) and v and "\n" not in v for v in value)


def _is_options(value: object) -> bool:
    return _is_lines(value) and all(v.startswith("-") for v in value)  # type: ignore[attr-defined]


def _is_gpus(value: object) -> bool:
    return isinstance(value, (str, int)) and re.fullmatch(r"(?:[\w.-]+:)?\d+", str(value)) is not None


def _is_time(value: object) -> bool:
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def _is_memory(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+[KMGTkmgt]?", value) is not None


_Check = tuple[Callable[[object], bool], str]
_NUMBER: _Check = (_is_number, "a whole number of at least 1")
_COMMON: Mapping[str, _Check] = {
    "partition": (_is_word, "a name without spaces"),
    "account": (_is_word, "a name without spaces"),
    "cpus": _NUMBER,
    "mem": (_is_memory, "memory as SLURM writes it, like 48G"),
    "time": (_is_time, _EXPECTED_TIME),
    "options": (_is_options, 'options of sbatch, like ["--qos=long"]'),
}
_TRAINING: Mapping[str, _Check] = {
    **_COMMON,
    "gpus": (_is_gpus, "a number, or a type and a number: a100:2"),
    "nodes": _NUMBER,
}
_OWN: Mapping[str, _Check] = {
    "parts": _NUMBER,
    "signal_s": _NUMBER,
    "modules": (_is_lines, 'names, like ["python/3.12", "cuda/12.4"]'),
    "venv": (lambda value: isinstance(value, (str, Path)), 'a folder, or "" for none'),
    "setup": (_is_lines, "lines of bash"),
    "scratch": (_is_folder, 'a folder like "/scratch" or "$TMPDIR", or "none"'),
}
_ALL: Mapping[str, _Check] = {**_COMMON, **_OWN}


def _content(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise storage_error(error, file) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{file} is not valid TOML.", found=str(error), remedy="correct it in a text editor"
        ) from error
    problems = _problems({k: v for k, v in content.items() if k not in KINDS}, "", _ALL)
    for kind in KINDS:
        section = content.get(kind, {})
        if not isinstance(section, dict):
            problems.append(f"{kind} is {section!r}; expected: a section [{kind}]")
            content[kind] = {}
            continue
        problems += _problems(section, f"[{kind}] ", _TRAINING if kind == "training" else _COMMON)
    if problems:
        raise SettingsError(
            f"{file} cannot be used.", found="\n            ".join(problems), remedy="correct these lines"
        )
    return content


def _problems(values: Mapping[str, Any], where: str, checks: Mapping[str, _Check]) -> list[str]:
    found = []
    for name, value in values.items():
        if name not in checks and (name in _OWN or name in _TRAINING):
            place = "above all sections" if name in _OWN else "in the section [training]"
            found.append(f"{where}{name} is unknown here; it belongs {place}")
        elif name not in checks:
            found.append(f"{where}{name} is unknown; expected: {', '.join(checks)}")
        elif not checks[name][0](value):
            found.append(f"{where}{name} is {value!r}; expected: {checks[name][1]}")
    return found


def _resources(values: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(Resources)}
    return {name: str(value) if name == "gpus" else value for name, value in values.items() if name in names}


def _as_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def own_environment() -> Path | None:
    """The virtual environment of this process; None if it has none."""
    folder = Path(sys.prefix)
    return folder if sys.prefix != sys.base_prefix and (folder / "bin" / "activate").is_file() else None
