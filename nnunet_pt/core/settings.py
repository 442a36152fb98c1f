"""The only place that reads the environment.

:class:`Settings` is everything nnU-Net takes from environment variables, parsed once. :class:`Workspace` answers where
the three folders are, and complains about a missing variable only when its folder is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_pt.core.errors import SettingsError

TRUE_WORDS = frozenset({"1", "true", "t"})
FALSE_WORDS = frozenset({"0", "false", "f"})

FOLDER_PURPOSES = {
    "nnUNet_raw": "raw datasets",
    "nnUNet_preprocessed": "fingerprints, plans and preprocessed data",
    "nnUNet_results": "trained models",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a launcher (torchrun, or SLURM's srun) started this process as one of several.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        local_rank: Number of this process on its machine.
        local_size: Number of processes on this machine.
        address: Host where the processes meet.
        port: Port where they meet.
        launcher: "torchrun" or "srun".
        machine: Name of this machine, as the cluster calls it.
        has_store: Whether the launcher holds the store where the processes meet; otherwise process 0 does.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    launcher: str
    machine: str = field(default_factory=lambda: os.uname().nodename)
    has_store: bool = False

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Launch | None:
        """Read the variables of torchrun, else those of srun; None if this process stands alone.

        A batch script of SLURM stands alone, too, whatever the number of tasks of its job is: only within a step that
        ``srun`` started with several tasks there are other processes to wait for.
        """
        machine = env.get("SLURMD_NODENAME") or os.uname().nodename
        if env.get("RANK") and env.get("WORLD_SIZE"):
            return cls(
                rank=_number(env, "RANK"),
                world_size=_number(env, "WORLD_SIZE", minimum=1),
                local_rank=_number(env, "LOCAL_RANK"),
                local_size=_number(env, "LOCAL_WORLD_SIZE", default=1, minimum=1),
                address=env.get("MASTER_ADDR") or "localhost",
                port=_number(env, "MASTER_PORT", default=29500),
                launcher="torchrun",
                machine=machine,
                has_store=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            )
        if _number(env, "SLURM_STEP_NUM_TASKS", default=1) > 1 and env.get("SLURM_PROCID"):
            job = _number(env, "SLURM_JOB_ID") * 7 + _number(env, "SLURM_STEP_ID")
            nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "localhost"
            return cls(
                rank=_number(env, "SLURM_PROCID"),
                world_size=_number(env, "SLURM_STEP_NUM_TASKS", minimum=1),
                local_rank=_number(env, "SLURM_LOCALID"),
                local_size=_first_number(env.get("SLURM_STEP_TASKS_PER_NODE") or "1"),
                address=env.get("MASTER_ADDR") or first_host(nodes),
                port=_number(env, "MASTER_PORT", default=20000 + job % 20000),
                launcher="srun",
                machine=machine,
            )
        return None


def process_number() -> int | None:
    """Number of this process if a launcher started it as one of several; what is wrong there is said elsewhere."""
    try:
        launch = Launch.from_environment(os.environ)
    except SettingsError:
        return None
    return None if launch is None else launch.rank


def first_host(node_list: str) -> str:
    """The first host of a list as SLURM writes it: ``node[07-09,12],login1`` -> ``node07``."""
    first = re.match(r"[^,\[]+(\[([^],-]+)[^]]*\][^,\[]*)?", node_list)
    if first is None:
        return node_list
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first.group())


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """The job of SLURM that this process belongs to.

    Attributes:
        name: Its number; of an array job ARRAY_TASK, since the number of an array's last task means the whole array.
        restarts: How often SLURM has started it again.
    """

    name: str
    restarts: int = 0

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> SlurmJob | None:
        """Read the variables of SLURM; None if there are none."""
        name = env.get("SLURM_JOB_ID")
        if not name:
            return None
        if env.get("SLURM_ARRAY_JOB_ID") and env.get("SLURM_ARRAY_TASK_ID"):
            name = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        return cls(name=name, restarts=_number(env, "SLURM_RESTART_COUNT"))


@dataclass(frozen=True, slots=True)
class ColourWishes:
    """What the environment says about coloured output.

    Attributes:
        no_color: ``NO_COLOR`` is not empty: no colours anywhere (https://no-color.org).
        force_color: ``FORCE_COLOR`` is not empty and no word for "no": colours even without a terminal.
        dumb: ``TERM`` is ``dumb``: the terminal can only show text.
    """

    no_color: bool
    force_color: bool
    dumb: bool

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> ColourWishes:
        """Parse the environment; that of the process by default."""
        env = os.environ if environ is None else environ
        forced = env.get("FORCE_COLOR", "")
        return cls(bool(env.get("NO_COLOR")), bool(forced) and forced not in FALSE_WORDS, env.get("TERM") == "dumb")

    def allow(self, *, terminal: bool) -> bool:
        """Whether to colour what is written to a terminal, or to something else."""
        return not self.no_color and (self.force_color or (terminal and not self.dumb))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Parsed environment variables; ``None`` means that the variable is not set.

    Attributes:
        raw: ``nnUNet_raw``.
        preprocessed: ``nnUNet_preprocessed``.
        results: ``nnUNet_results``.
        trainer_folders: ``nnUNet_extTrainer``, folders searched for users' own trainers.
        num_processes: ``nnUNet_def_n_proc``, worker processes of commands that do not say otherwise.
        num_augmentation_processes: ``nnUNet_n_proc_DA``, augmentation workers for each GPU.
        compile: ``nnUNet_compile``.
        num_predict_preprocess: ``nnUNet_npp``.
        num_predict_export: ``nnUNet_nps``.
        wandb_enabled: ``nnUNet_wandb_enabled``.
        wandb_project: ``nnUNet_wandb_project``.
        wandb_mode: ``nnUNet_wandb_mode``.
        job_id: ``SLURM_JOB_ID``, else ``LSB_JOBID``.
        cpus_per_task: ``SLURM_CPUS_PER_TASK``.
        job_memory_mb: Memory that SLURM has granted on this node in MiB: ``SLURM_MEM_PER_NODE``, or
            ``SLURM_MEM_PER_CPU`` times ``SLURM_CPUS_ON_NODE``.
        pretrained_models: ``nnssl_pretrained_models``, where downloaded checkpoints go.
        launch: How this process was started as one of several; None if it stands alone.
        node_scratch: ``SLURM_TMPDIR``, a folder of the job on a disk of its node.
        slurm_job: The job of SLURM that this process belongs to, if it does.
    """

    raw: Path | None = None
    preprocessed: Path | None = None
    results: Path | None = None
    trainer_folders: tuple[Path, ...] = ()
    num_processes: int | None = None
    num_augmentation_processes: int | None = None
    compile: bool | None = None
    num_predict_preprocess: int = 3
    num_predict_export: int = 3
    wandb_enabled: bool = False
    wandb_project: str = "nnunet"
    wandb_mode: str = "online"
    job_id: str | None = None
    cpus_per_task: int | None = None
    job_memory_mb: int | None = None
    pretrained_models: Path | None = None
    launch: Launch | None = None
    node_scratch: Path | None = None
    slurm_job: SlurmJob | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Parse the environment.

        Args:
            environ: Variables; the process's own environment by default.

        Raises:
            SettingsError: If a number or switch has an impossible value.
        """
        env = {k: _clean(v) for k, v in (os.environ if environ is None else environ).items()}
        compile_word = env.get("nnUNet_compile")
        return cls(
            raw=_folder(env, "nnUNet_raw"),
            preprocessed=_folder(env, "nnUNet_preprocessed"),
            results=_folder(env, "nnUNet_results"),
            trainer_folders=tuple(
                Path(_clean(p)).expanduser() for p in env.get("nnUNet_extTrainer", "").split(os.pathsep) if _clean(p)
            ),
            num_processes=_integer(env, "nnUNet_def_n_proc", minimum=1),
            num_augmentation_processes=_integer(env, "nnUNet_n_proc_DA", minimum=0),
            compile=None if not compile_word else compile_word.lower() in TRUE_WORDS,
            num_predict_preprocess=_lenient_integer(env, "nnUNet_npp", 3),
            num_predict_export=_lenient_integer(env, "nnUNet_nps", 3),
            wandb_enabled=_switch(env, "nnUNet_wandb_enabled"),
            wandb_project=env.get("nnUNet_wandb_project") or "nnunet",
            wandb_mode=env.get("nnUNet_wandb_mode") or "online",
            job_id=env.get("SLURM_JOB_ID") or env.get("LSB_JOBID") or None,
            cpus_per_task=_integer(env, "SLURM_CPUS_PER_TASK", minimum=1),
            job_memory_mb=_job_memory_mb(env),
            pretrained_models=_folder(env, "nnssl_pretrained_models"),
            launch=Launch.from_environment(env),
            node_scratch=_folder(env, "SLURM_TMPDIR"),
            slurm_job=SlurmJob.from_environment(env),
        )


@dataclass(frozen=True, slots=True)
class Workspace:
    """The three folders of nnU-Net."""

    settings: Settings

    @classmethod
    def from_environment(cls) -> Workspace:
        """The workspace of this process's environment."""
        return cls(Settings.from_environment())

    @property
    def raw(self) -> Path:
        """Folder of the raw datasets."""
        return self._needed("nnUNet_raw", self.settings.raw)

    @property
    def preprocessed(self) -> Path:
        """Folder of fingerprints, plans and preprocessed data."""
        return self._needed("nnUNet_preprocessed", self.settings.preprocessed)

    @property
    def results(self) -> Path:
        """Folder of trained models."""
        return self._needed("nnUNet_results", self.settings.results)

    def existing_roots(self) -> tuple[Path, ...]:
        """Those of the three folders that are set and exist."""
        roots = (self.settings.raw, self.settings.preprocessed, self.settings.results)
        return tuple(r for r in roots if r is not None and r.is_dir())

    @staticmethod
    def _needed(variable: str, path: Path | None) -> Path:
        if path is None:
            raise SettingsError(
                f"The environment variable {variable} is not set; it says where {FOLDER_PURPOSES[variable]} are.",
                remedy=f"export {variable}=/path/to/folder   (add the line to ~/.bashrc or to your SLURM script)",
            )
        if path.exists() and not path.is_dir():
            raise SettingsError(f"{variable} is not a folder", found=path, remedy=f"let {variable} name a folder")
        return path


def _clean(value: str) -> str:
    value = value.strip()
    while len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value


def _folder(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]).expanduser() if env.get(name) else None


def _integer(env: Mapping[str, str], name: str, *, minimum: int) -> int | None:
    text = env.get(name)
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        value = minimum - 1
    if value < minimum:
        raise SettingsError(
            f"The environment variable {name} is not usable.",
            found=repr(text),
            expected=f"a whole number, at least {minimum}",
            remedy=f"export {name}=4, or unset {name}",
        )
    return value


def _number(env: Mapping[str, str], name: str, *, default: int = 0, minimum: int = 0) -> int:
    value = _integer(env, name, minimum=minimum)
    return default if value is None else value


def _first_number(text: str) -> int:
    """Tasks on the first node of a list as SLURM writes it: ``2(x3),1`` -> 2."""
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 1


def _lenient_integer(env: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(env.get(name, ""))
    except ValueError:
        return default


def _job_memory_mb(env: Mapping[str, str]) -> int | None:
    """None without a job, and for jobs that may take all (``--mem=0``)."""
    per_cpu = _lenient_integer(env, "SLURM_MEM_PER_CPU", 0)
    granted = _lenient_integer(env, "SLURM_MEM_PER_NODE", per_cpu * _lenient_integer(env, "SLURM_CPUS_ON_NODE", 1))
    return granted if granted > 0 else None


def _switch(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name) or "0"
    if text.lower() in TRUE_WORDS | FALSE_WORDS:
        return text.lower() in TRUE_WORDS
    raise SettingsError(
        f"The environment variable {name} is not usable.", found=repr(text), expected="0, 1, False or True"
    )
