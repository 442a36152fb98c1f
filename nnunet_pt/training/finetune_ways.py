"""The ways from weights to a training, depending on what is known about the weights.

Each way does the steps that come before the training, as far as they are not done, and says how to train.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import CheckpointError, NnunetError, PlansError, UsageError
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.networks.trainer_networks import TrainerNetwork, network_of_trainer
from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest, extract_fingerprint
from nnunet_pt.planning.fit_plans import channel_origins
from nnunet_pt.planning.move_plans import GivenPlans, MovePlansRequest, move_plans
from nnunet_pt.planning.planner import PlanRequest, plan_experiment
from nnunet_pt.planning.pretrained_plans import BASE_PLANS, CONFIGURATION
from nnunet_pt.planning.summary import plan_summary
from nnunet_pt.plans.fingerprint import FILE_NAME as FINGERPRINT_FILE
from nnunet_pt.plans.plans import NOT_PLANS, Plans
from nnunet_pt.preprocessing.pipeline import PreprocessRequest, preprocess_dataset
from nnunet_pt.training.finetune_steps import Work
from nnunet_pt.training.request import Policy, TrainRequest
from nnunet_pt.transfer.account import TransferPlan
from nnunet_pt.transfer.inspection import TargetRequest, inspect_weights
from nnunet_pt.transfer.nnssl_plans import (
    LikeDynamicRequest,
    LikeNnsslRequest,
    PretrainedPlansResult,
    plan_like_dynamic,
    preprocess_like_nnssl,
)
from nnunet_pt.transfer.source import output_names

_PRIMUS = "Primus"
_log = get_logger(__name__)


def like_pretraining(work: Work) -> TrainRequest:
    """Plan and preprocess for the network of an nnssl checkpoint, or for another one that takes what fits of it.

    Returns:
        How to train.
    """
    wanted, adaptation = work.request.training, work.given.adaptation
    assert adaptation is not None
    if wanted.configuration not in ("", CONFIGURATION):
        raise UsageError(
            f"Networks of nnssl are three-dimensional, so there is no way to {wanted.configuration}.",
            expected=f"-c {CONFIGURATION}, or nothing",
        )
    primus = "PretrainedTrainer_Primus" if _PRIMUS in adaptation.architecture.short_name else "PretrainedTrainer"
    trainer = wanted.trainer or ("DynamicPretrainedTrainer" if wanted.plans_name else primus)
    work.check_trainer(trainer)
    adaptation.check_architecture()
    if wanted.plans_name:
        made = _dynamic_plans(work)
    else:
        _plan(work)
        made = _pretraining_plans(work)
    return replace(
        wanted,
        configuration=CONFIGURATION,
        trainer=trainer,
        plans_name=made.plans.plans_name,
        of_plans=True,
    )


def _pretraining_plans(work: Work) -> PretrainedPlansResult:
    """Plans for the network of the pre-training, and data as it had them."""
    request = work.request
    like = LikeNnsslRequest(
        dataset=work.dataset,
        name=work.name,
        checkpoint=work.given.reference,
        mode=request.mode,
        override_spacing=request.override_spacing,
        normalization=request.normalization,
        num_processes=request.num_workers,
        max_ram_gb=request.max_ram_gb,
        progress=request.training.progress,
    )
    command = ["nnUNetv2_preprocess_like_nnssl", *_of_checkpoint(work), "-am", request.mode]
    if request.override_spacing is not None:
        command += ["-os", *(f"{value:g}" for value in request.override_spacing)]
    if request.normalization != "zscore":
        command += ["-norm", request.normalization]
    return work.steps.do([*command, *work.resources], lambda: preprocess_like_nnssl(like, work.workspace))


def _dynamic_plans(work: Work) -> PretrainedPlansResult:
    """The dataset's own plans with a note about the pre-training."""
    request = work.request
    dynamic = LikeDynamicRequest(
        dataset=work.dataset,
        name=work.name,
        checkpoint=work.given.reference,
        base_plans=request.training.plans_name,
        num_processes=request.num_workers,
        max_ram_gb=request.max_ram_gb,
        progress=request.training.progress,
    )
    command = ["nnUNetv2_plan_like_dynamic", *_of_checkpoint(work), "-pl", dynamic.base_plans, *work.resources]
    return work.steps.do(command, lambda: plan_like_dynamic(dynamic, work.workspace))


def _of_checkpoint(work: Work) -> list[str]:
    return ["-d", work.number, "-n", work.name, "-pc", work.given.reference]


def _plan(work: Work) -> None:
    """The dataset's own plans, which preprocessing like a pre-training starts from."""
    command = ["nnUNetv2_plan_and_preprocess", "-d", work.number, "--no_pp"]
    there = next((name for name in BASE_PLANS if (work.folder / f"{name}.json").is_file()), None)
    if there is not None:
        work.steps.skip(command, f"the dataset has the plans {there}")
        return

    def plan() -> None:
        extract_fingerprint(_measuring(work), work.workspace)
        _log.info(plan_summary(plan_experiment(PlanRequest(dataset=work.dataset), work.workspace)))

    work.steps.do_quietly(command, plan)


def with_plans_of(work: Work, given: GivenPlans) -> TrainRequest:
    """Move a model's plans to the dataset and preprocess it with them; how to train."""
    configuration = _configuration_of(work, given)
    trainer = _trainer_of(work, given.plans, configuration)
    work.check_trainer(trainer)
    plans_name = f"{given.plans.plans_name}_from_{work.name}"
    _measure(work)
    path = work.folder / f"{plans_name}.json"
    command = ["nnUNetv2_move_plans_between_datasets", "-s", str(work.given.path), "-t", work.number]
    command += ["-tp", plans_name, "--fit"]
    if path.is_file():
        _check_same_network(path, given.plans, configuration)
        work.steps.skip(command, f"the dataset has the plans {plans_name}")
    else:
        move = MovePlansRequest(source=given, target=work.dataset, target_plans=plans_name, fit=True)
        work.steps.do_quietly(command, lambda: _move(work, move))
    wanted = replace(
        work.request.training,
        configuration=configuration,
        trainer=trainer,
        plans_name=plans_name,
        pretrained_weights=work.given.path,
        transfer=work.request.training.transfer or _policy(work, given, configuration),
    )
    if not work.has_begun(wanted):
        _planned_transfer(work, wanted)
    _preprocess(work, plans_name, configuration)
    return wanted


def _move(work: Work, request: MovePlansRequest) -> None:
    move_plans(request, work.workspace)


def _configuration_of(work: Work, given: GivenPlans) -> str:
    """The configuration to train: that of the weights unless another one is asked for and can take them."""
    wanted, own = work.request.training, work.given.configuration
    assert own is not None
    if wanted.configuration and wanted.configuration != own:
        given.plans.configuration(wanted.configuration)  # or complain
        if wanted.transfer in (None, "strict"):
            raise UsageError(
                f"These weights were trained for the configuration {own}.",
                found=f"-c {wanted.configuration}",
                expected=f"-c {own}, or nothing",
                remedy="leave out -c; or take what can be made to fit, with -transfer adapt",
            )
    return wanted.configuration or own


def _policy(work: Work, given: GivenPlans, configuration: str) -> Policy | None:
    """How weights are transferred: as nnU-Net does unless the network cannot be quite the same."""
    target = DatasetDescription.load(work.folder / DATASET_FILE)
    count = len(given.plans.configuration(configuration).normalization_schemes)
    reasons = []
    if channel_origins(given.channel_names, count, target.channel_names) != tuple(range(count)):
        source = ", ".join(given.channel_names or [f"{count} channels"])
        reasons.append(f"input channels: {source} in the model, {', '.join(target.channel_names)} here")
    outputs = len(output_names(target))
    if _is_primus(work, given.plans, configuration) and work.given.outputs not in (None, outputs):
        reasons.append(f"labels, on which the decoder of a Primus depends: {work.given.outputs} there, {outputs} here")
    if reasons:
        _log.info("Weights are transferred with -transfer adapt, because there are other %s.", "; other ".join(reasons))
    return "adapt" if reasons else None


def _trainer_of(work: Work, plans: Plans, configuration: str) -> str:
    """The trainer that is asked for, or one that trains the model's network."""
    if work.request.training.trainer:
        return work.request.training.trainer
    if network_of_trainer(work.given.trainer) != TrainerNetwork():
        return work.given.trainer
    return "PretrainedTrainer_Primus" if _is_primus(work, plans, configuration) else "nnUNetTrainer"


def _is_primus(work: Work, plans: Plans, configuration: str) -> bool:
    replaced = network_of_trainer(work.given.trainer).network
    return _PRIMUS in (replaced or plans.configuration(configuration).architecture.short_name)


def _check_same_network(path: Path, given: Plans, configuration: str) -> None:
    """Make sure that plans of this name follow these weights; other values in them may have been edited."""
    there, wanted = Plans.load(path).configuration(configuration), given.configuration(configuration)
    if there.architecture != wanted.architecture:
        raise UsageError(
            f"The plans {path.stem} are for another network than these weights.",
            found=path,
            remedy="choose another name for this pre-training with -n; or delete the plans if nobody needs them",
        )


def with_own_plans(work: Work) -> TrainRequest:
    """Preprocess with plans that the dataset has; how to train with what fits of the weights."""
    wanted = work.request.training
    path = work.folder / f"{wanted.plans_name}.json"
    if not path.is_file():
        raise PlansError(
            f"The dataset has no plans {wanted.plans_name}.",
            found=", ".join(_plans_there(work)) or "no plans at all",
            remedy=f"choose others with -p, or make them:  nnUNetv2_plan_and_preprocess -d {work.number} --no_pp",
        )
    configuration = wanted.configuration or work.given.configuration or CONFIGURATION
    Plans.load(path).configuration(configuration)  # or complain
    wanted = replace(
        wanted,
        configuration=configuration,
        trainer=wanted.trainer or "nnUNetTrainer",
        pretrained_weights=work.given.path,
        transfer=wanted.transfer or "match",
    )
    work.check_trainer(wanted.trainer)
    command = ["nnUNetv2_inspect_weights", str(work.given.path), "-d", work.number, "-c", configuration]
    command += ["-p", wanted.plans_name, "-transfer", str(wanted.transfer)]
    if work.has_begun(wanted):
        work.steps.skip(command, "training has begun")
    else:
        work.steps.do_quietly(command, lambda: _log.info("%s", _planned_transfer(work, wanted)))
    _preprocess(work, wanted.plans_name, configuration)
    return wanted


def _planned_transfer(work: Work, wanted: TrainRequest) -> TransferPlan:
    """What the network would get; too little is refused before time is spent on preprocessing."""
    target = TargetRequest(
        dataset=work.dataset,
        plans_name=wanted.plans_name,
        configuration=wanted.configuration,
        trainer=wanted.trainer,
        policy=wanted.transfer or "strict",
        layers=wanted.transfer_layers or None,
        heads=wanted.transfer_heads,
        fix_token_axes=wanted.fix_token_axes,
    )
    plan = inspect_weights(work.given.path, target, work.workspace).plan
    assert plan is not None
    if plan.too_little is not None and not wanted.allow_little_transfer:
        raise CheckpointError(
            f"{work.given.path} fits this network badly.",
            found=plan.too_little,
            remedy="use plans with the architecture of the weights, try -transfer adapt, or allow it with "
            "--allow_little_transfer",
        )
    return plan


def no_plans(work: Work) -> NnunetError:
    there = _plans_there(work)
    plans = f"-p {there[0]}" if there else "-p PLANS"
    first = "" if there else f"make plans with  nnUNetv2_plan_and_preprocess -d {work.number} --no_pp,  then "
    return UsageError(
        f"{work.given.path} does not say which network its weights belong to.",
        found="neither plans of nnU-Net nor an adaptation plan of nnssl, in it or beside it",
        remedy=f"{first}name plans of the dataset with such a network: {plans}; what fits is taken. For a checkpoint "
        "of nnssl put its adaptation_plan.json beside it",
    )


def _plans_there(work: Work) -> list[str]:
    names = sorted(p.stem for p in work.folder.glob("*.json") if p.stem not in NOT_PLANS)
    return [name for name in names if name.endswith("Plans")] or [name for name in names if "Plans" in name]


def _measuring(work: Work) -> FingerprintRequest:
    request = work.request
    return FingerprintRequest(
        dataset=work.dataset,
        num_processes=request.num_workers,
        max_ram_gb=request.max_ram_gb,
        progress=request.training.progress,
    )


def _measure(work: Work) -> None:
    command = ["nnUNetv2_extract_fingerprint", "-d", work.number, *work.resources]
    if (work.folder / FINGERPRINT_FILE).is_file():
        work.steps.skip(command, "the dataset has a fingerprint")
    else:
        work.steps.do(command, lambda: extract_fingerprint(_measuring(work), work.workspace))


def _preprocess(work: Work, plans_name: str, configuration: str) -> None:
    """Preprocess what is missing; cases that are there are compared with the raw data, which takes a moment."""
    of = CONFIGURATION if configuration == "3d_cascade_fullres" else configuration
    request = PreprocessRequest(
        dataset=work.dataset,
        plans_name=plans_name,
        configurations=(of,),
        num_processes=work.request.num_workers,
        max_ram_gb=work.request.max_ram_gb,
        progress=work.request.training.progress,
    )
    command = ["nnUNetv2_preprocess", "-d", work.number, "-plans_name", plans_name, "-c", of]
    command += [*work.resources]
    work.steps.do(command, lambda: preprocess_dataset(request, work.workspace))
