"""``nnUNetv2_slurm``: a whole workflow as job scripts for SLURM, and how far its jobs are."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.core.errors import UsageError

if TYPE_CHECKING:
    from nnunet_pt.cluster.settings import ClusterSettings
    from nnunet_pt.cluster.workflow import HowToTrain, WorkflowRequest
    from nnunet_pt.core.settings import Workspace

PROGRAM = "nnUNetv2_slurm"
CLUSTER = "what the jobs ask the cluster for"
# These are decided by the workflow
DECIDED = {
    "-tr": "tr",
    "-p": "p",
    "-pretrained_weights": "pretrained_weights",
    "-num_gpus": "num_gpus",
    "--c": "c",
    "--val": "val",
    "--val_best": "val_best",
    "--disable_checkpointing": "disable_checkpointing",
    "-reset_optimizer": "reset_optimizer",
    "--json_log": "json_log",
}


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        PROGRAM,
        "Write the jobs of a whole workflow as short sbatch scripts, which you can read and change, and submit them. "
        "Jobs continue after their time limit, and show how far they are.",
        """
        nnUNetv2_slurm crossval -d 4 -c 2d 3d_fullres --out jobs/
        nnUNetv2_slurm pretrain_finetune -pretrain 15 -finetune 16 -c 3d_fullres -f 0 1 --out jobs/ --submit
        nnUNetv2_slurm status jobs/
        """,
    )
    commands = arguments.add_commands(parser, "commands", "workflow")
    _crossval_parser(commands)
    _pretrain_finetune_parser(commands)
    _status_parser(commands)
    return parser


def _crossval_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "crossval",
        help="fingerprint, plans, preprocessing, a training for each fold, the best model",
        description="Write the jobs of a cross-validation: measure, plan and preprocess a dataset, train each "
        "configuration on each fold, and choose the best model or ensemble.",
        examples="""
        nnUNetv2_slurm crossval -d 4 -c 2d 3d_fullres --out jobs/
        nnUNetv2_slurm crossval -d 4 -c 3d_fullres -f 0 1 2 --out jobs/ -partition gpu -time 48:00:00 --submit
        nnUNetv2_slurm crossval -d 4 -c 3d_fullres --out jobs/ -cluster cluster.toml -parts 8
        """,
    )
    arguments.add_dataset(parser)
    _add_common(parser)


def _pretrain_finetune_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "pretrain_finetune",
        help="plan for one dataset, train on another one first, then fine-tune each fold",
        description="Write the jobs of a pre-training and a fine-tuning: plan for the finetuning dataset, give these "
        "plans to the pretraining dataset, preprocess both, train on all cases of the pretraining dataset, and go on "
        "from these weights on each fold of the finetuning dataset.",
        examples="""
        nnUNetv2_slurm pretrain_finetune -pretrain 15 -finetune 16 -c 3d_fullres -f 0 1 --out jobs/
        nnUNetv2_slurm pretrain_finetune -pretrain 15 -finetune 16 -c 3d_fullres --out jobs/ --submit
        """,
    )
    required = arguments.group(parser, arguments.REQUIRED)
    for option, what in (("-pretrain", "dataset to train on first"), ("-finetune", "dataset that the models are for")):
        required.add_argument(
            option,
            metavar="ID",
            type=arguments.dataset_reference,
            required=True,
            help=f"{what}: its number or its name",
        )
    _add_common(parser)
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument("-pretrain_tr", metavar="NAME", help="trainer of the pre-training (default: that of -tr)")
    method.add_argument(
        "-pretrain_args",
        metavar="TEXT",
        help="more arguments of nnUNetv2_train for the pre-training, as one text that begins with a space: "
        "' -epochs 500' (default: none)",
    )


def _status_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="what is done, runs, waits, is queued again or has failed, with the last lines about it",
        description="Show how far the jobs are whose scripts are in a folder: what is done, runs, waits, is queued "
        "again or has failed, with the last lines about the error and the command that does it again.",
        examples="""
        nnUNetv2_slurm status jobs/
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "folder", metavar="FOLDER", type=Path, help="what was given as --out, or a folder within it"
    )
    arguments.add_output(parser, progress=False)


def _add_common(parser: ArgumentParser) -> None:
    """What the workflows have in common."""
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument(
        "-c", metavar="NAME", nargs="+", required=True, help="configurations to train, for example  2d 3d_fullres"
    )
    required.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="where the folder with the scripts goes; all nodes must see it",
    )
    subject = arguments.group(parser, arguments.SUBJECT)
    subject.add_argument(
        "-f",
        metavar="FOLD",
        type=arguments.fold,
        nargs="+",
        default=[0, 1, 2, 3, 4],
        help="folds to train, or all for one training on all cases (default: 0 1 2 3 4)",
    )
    subject.add_argument(
        "-tr", metavar="NAME", default="nnUNetTrainer", help="trainer, see nnUNetv2_train (default: %(default)s)"
    )
    subject.add_argument("-p", metavar="NAME", help="name of the plans (default: the planner's own name for them)")
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument(
        "-pl",
        metavar="NAME",
        default="ExperimentPlanner",
        help="planner, see nnUNetv2_plan_experiment (default: %(default)s)",
    )
    method.add_argument(
        "-gpu_memory_target",
        metavar="GB",
        type=arguments.positive_float,
        help="memory of the GPU to plan for (default: what the planner is made for)",
    )
    method.add_argument(
        "--verify_dataset_integrity",
        action="store_true",
        help="first check every image and label, each job those of its cases",
    )
    method.add_argument(
        "-train_args",
        metavar="TEXT",
        help="more arguments of nnUNetv2_train, as one text that begins with a space: ' -lr 0.001 -epochs 250' "
        "(default: none)",
    )
    _add_cluster(parser)
    written = arguments.group(parser, arguments.WRITTEN)
    written.add_argument("--overwrite", action="store_true", help="replace scripts that are there, even changed ones")
    arguments.group(parser, arguments.RUNNING).add_argument(
        "--submit", action="store_true", help="submit the jobs, and show which waits for which"
    )
    arguments.add_output(parser, progress=False)


def _add_cluster(parser: ArgumentParser) -> None:
    group = arguments.group(parser, CLUSTER, "what is not given is as cluster.toml says, or as the scripts show")
    own = "(default: that of cluster.toml, else"
    group.add_argument(
        "-cluster", metavar="FILE", type=Path, help="a file like cluster.toml, see the documentation (default: none)"
    )
    group.add_argument("-partition", metavar="NAME", help=f"of all jobs {own} the cluster's)")
    group.add_argument("-account", metavar="NAME", help=f"of all jobs {own} the cluster's)")
    group.add_argument("-gpus", metavar="N", help=f"of each training on each node, N or TYPE:N {own} 1)")
    group.add_argument(
        "-nodes", metavar="N", type=arguments.positive_integer, help=f"machines for each training together {own} 1)"
    )
    group.add_argument(
        "-cpus", metavar="N", type=arguments.positive_integer, help=f"of all jobs {own} 8 for cases, 12 for trainings)"
    )
    group.add_argument("-mem", metavar="SIZE", help=f"of all jobs, for example 64G {own} 48G)")
    group.add_argument(
        "-time", metavar="LIMIT", help=f"of all jobs, for example 2-00:00:00 {own} a day for trainings, half for cases)"
    )
    group.add_argument(
        "-parts",
        metavar="N",
        type=arguments.positive_integer,
        help=f"jobs among which the cases are shared out for fingerprint and preprocessing {own} 1)",
    )
    group.add_argument("-modules", metavar="NAME", nargs="+", help=f"modules to load {own} none)")
    group.add_argument(
        "-venv", metavar="FOLDER", help=f"virtual environment to activate {own} the one of this command, if it has one)"
    )


def cluster_settings(args: Namespace) -> ClusterSettings:
    """What the arguments and the file ask for."""
    from nnunet_pt.cluster.settings import load_cluster_settings, own_environment
    from nnunet_pt.cluster.slurm import largest_node

    names = ("partition", "account", "cpus", "mem", "time", "parts", "modules", "venv")
    return load_cluster_settings(
        args.cluster,
        flags={name: getattr(args, name) for name in names},
        training_flags={"gpus": args.gpus, "nodes": args.nodes},
        own_venv=own_environment(),
        largest_node=largest_node,
    )


def request(args: Namespace) -> WorkflowRequest:
    """What the arguments ask for."""
    from nnunet_pt.cluster.workflow import HowToTrain, WorkflowRequest

    pretrains = args.workflow == "pretrain_finetune"
    return WorkflowRequest(
        dataset=args.finetune if pretrains else args.d,
        pretrain=args.pretrain if pretrains else None,
        configurations=tuple(args.c),
        folds=tuple(args.f),
        planner=args.pl,
        plans_name=args.p,
        gpu_memory_target=args.gpu_memory_target,
        verify_integrity=args.verify_dataset_integrity,
        training=_how_to_train(args.tr, "-train_args", args.train_args or ""),
        pretraining=_how_to_train(args.pretrain_tr or args.tr, "-pretrain_args", args.pretrain_args or "")
        if pretrains
        else HowToTrain(),
    )


def _how_to_train(trainer: str, option: str, text: str) -> HowToTrain:
    """How to train, with arguments that ``nnUNetv2_train`` would understand.

    Raises:
        UsageError: If they are decided by the workflow.
    """
    from nnunet_pt.cli.train import build_parser as training_parser
    from nnunet_pt.cluster.workflow import HowToTrain

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option} cannot be read.", found=f"{text!r}: {error}") from error
    parser = training_parser()
    subject = ["0", "2d", "0"]
    given, usual = parser.parse_args([*subject, *words]), parser.parse_args(subject)
    clashes = [name for name, attribute in DECIDED.items() if getattr(given, attribute) != getattr(usual, attribute)]
    if clashes:
        raise UsageError(
            f"{option} says what {PROGRAM} decides.",
            found=", ".join(clashes),
            remedy="leave it out; -tr, -p and -gpus are arguments of this command, too",
        )
    file, colon, name = trainer.rpartition(":")
    trainer = f"{Path(file).expanduser().absolute()}:{name}" if colon else trainer  # jobs run in another folder
    return HowToTrain(trainer=trainer, arguments=tuple(w for w in words if w != "--no_pbar"))


def write(args: Namespace) -> Outcome:
    """Write the scripts, and submit them if asked to."""
    from nnunet_pt.cluster import slurm
    from nnunet_pt.cluster.jobs import workflow_of
    from nnunet_pt.cluster.scripts import write_scripts
    from nnunet_pt.cluster.scripts_text import SUBMIT
    from nnunet_pt.cluster.status import job_tree
    from nnunet_pt.core.console import get_logger, show
    from nnunet_pt.core.settings import Workspace

    workspace: Workspace = Workspace.from_environment()
    settings = cluster_settings(args)
    slurm.check_partitions(settings.partitions())
    workflow = workflow_of(request(args), settings, workspace)
    written = write_scripts(workflow, settings, workspace, args.out, overwrite=args.overwrite)
    submit = written.folder / SUBMIT
    if args.submit:
        slurm.submit(submit)
        show(job_tree(written.folder))
        get_logger().info("How far they are: %s status %s", PROGRAM, shlex.quote(str(args.out)))
    elif slurm.has_slurm():
        get_logger().info("Look at them, then: bash %s", shlex.quote(str(submit)))
    else:
        get_logger().warning(
            "There is no sbatch on this machine. Where there is one: bash %s", shlex.quote(str(submit))
        )
    return Outcome.of([written])


def status(args: Namespace) -> Outcome:
    """Show how far the jobs are."""
    from dataclasses import asdict

    from nnunet_pt.cluster.status import status_of
    from nnunet_pt.core.console import show
    from nnunet_pt.core.files import plain_json

    found = status_of(args.folder)
    show("\n\n".join(workflow.text() for workflow in found), {"workflows": plain_json([asdict(w) for w in found])})
    return Outcome(summaries=())


EXECUTE: dict[str, Callable[[Namespace], Outcome]] = {
    "crossval": write,
    "pretrain_finetune": write,
    "status": status,
}


def execute(args: Namespace) -> Outcome:
    """Do what was asked for."""
    return EXECUTE[args.workflow](args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
