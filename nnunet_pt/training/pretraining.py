"""Starting from weights that were trained elsewhere: where they are, what is taken, and what is kept about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.core.files import write_text
from nnunet_pt.plans.pretrain_info import PretrainInfo, citation_lines
from nnunet_pt.training.freezing import input_layer
from nnunet_pt.training.request import Policy
from nnunet_pt.training.task import TrainingTask
from nnunet_pt.transfer.account import TransferPlan
from nnunet_pt.transfer.checkpoint import read_checkpoint
from nnunet_pt.transfer.checkpoint_files import checkpoint_file, find_checkpoint
from nnunet_pt.transfer.names import plainest_names
from nnunet_pt.transfer.nnssl import nnssl_settings
from nnunet_pt.transfer.plan import TransferSettings, plan_transfer
from nnunet_pt.transfer.report_files import write_report
from nnunet_pt.transfer.source import PretrainedSource, input_names, output_names, read_source

CITATIONS_FILE = "citations.txt"
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "mask_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a training begins with.

    Attributes:
        plan: What was transferred.
        citations: What to cite, one text for each.
        input_adapted: Whether the input layer is something else than a copy.
        of_pretraining: Whether the weights are those that the plans name.
    """

    plan: TransferPlan
    citations: tuple[str, ...]
    input_adapted: bool
    of_pretraining: bool

    def describe(self) -> str:
        """The account, and what to cite, for the log."""
        cited = ["", "Please cite what the pre-training is based on:", *self.citations] if self.citations else []
        return "\n".join([str(self.plan), *cited])

    def write(self, task: TrainingTask) -> None:
        """Leave the account in the fold's folder, and the citations in the model's."""
        write_report(self.plan, task.output_folder)
        if self.citations:
            write_text(task.model_folder / CITATIONS_FILE, "\n".join(self.citations) + "\n")


def transfer_weights(task: TrainingTask, network: nn.Module) -> Start | None:
    """Give a network the weights that its training shall start from.

    Args:
        task: Says which, and how.
        network: The freshly built network; it is changed.

    Returns:
        What was done; None if the training starts from nothing.

    Raises:
        CheckpointError: If the file is gone or cannot be used, or too little of it fits. The network is not changed.
        UsageError: If layers are named that the network does not have.
    """
    request = task.request
    info = task.plans.pretrain_info if task.recipe.pretrained and request.pretrained_weights is None else None
    if request.pretrained_weights is not None:
        path = checkpoint_file(str(request.pretrained_weights), task.workspace.settings)
    elif info is not None:
        path = find_checkpoint(info, task.workspace.settings, request.checkpoint_path)
    else:
        return None
    source = read_source(path)
    policy: Policy = request.transfer or ("strict" if info is None else "adapt")
    plan = plan_transfer(network, source, policy=policy, settings=_settings(task, source, info))
    plan.apply(network)
    layer = input_layer(network)
    copied = {t.target for t in plan.tensors if t.action == "copied"}
    return Start(
        plan=plan,
        citations=tuple(citation_lines(source.citations or (info.citations if info is not None else ()))),
        input_adapted=any(name not in copied for name in layer),
        of_pretraining=info is not None,
    )


def _settings(task: TrainingTask, source: PretrainedSource, info: PretrainInfo | None) -> TransferSettings:
    """What the transfer has to know. Weights that plans name follow nnssl's rules unless other ones are asked for."""
    request = task.request
    if info is not None and request.transfer is None and not request.transfer_layers:
        return nnssl_settings(
            source,
            target_patch_size=task.configuration.patch_size,
            info=info,
            fix_token_axes=request.fix_token_axes,
            allow_little=request.allow_little_transfer,
        )
    described = source.adaptation_plan is None and info is not None and info.key_to_encoder is not None
    base = nnssl_settings(source, info=info) if described else TransferSettings()
    return replace(
        base,
        layers=request.transfer_layers or None,
        heads=request.transfer_heads,
        decoder=True,
        width=True,
        fix_token_axes=request.fix_token_axes,
        allow_little=request.allow_little_transfer,
        target_channels=input_names(task.description, cascaded=task.is_cascaded),
        target_labels=output_names(task.description),
        target_patch_size=task.configuration.patch_size,
    )


def keep_optimizer_state(optimizer: Optimizer, network: nn.Module, start: Start) -> int:
    """Give an optimiser the state that the weights' own one had, for every tensor that was copied as it is.

    Args:
        optimizer: The new optimiser.
        network: The network.
        start: What was transferred.

    Returns:
        Number of parameters whose state was taken over.

    Raises:
        CheckpointError: If the checkpoint has no state, or that of another kind of optimiser.
    """
    path = start.plan.path
    checkpoint = read_checkpoint(path)
    saved = checkpoint.optimizer_state or {"state": {}, "param_groups": []}
    names = _parameter_names(checkpoint.network_weights)
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    plain = plainest_names(checkpoint.network_weights)
    by_name = dict(
        zip((plain[name] for name in names), (saved["state"].get(number, {}) for number in numbers), strict=False)
    )
    known = {name: state for name, state in by_name.items() if state}
    problem = None
    if not saved["state"]:
        problem = "no state of the optimiser: the file was reduced to what prediction needs"
    elif len(names) != len(numbers) or not _same_kind(saved["param_groups"][0], optimizer):
        problem = "the state of another kind of optimiser, or of a part of the network"
    if problem is not None:
        raise CheckpointError(
            f"The optimiser of {path} cannot be kept.", found=problem, remedy="train without --keep_optimizer"
        )
    sources = {t.target: plain[t.source] for t in start.plan.tensors if t.action == "copied" and t.source in plain}
    of_parameter = {p: known.get(sources.get(name, "")) for name, p in network.named_parameters()}
    own = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = {number: state for number, p in enumerate(parameters) if (state := of_parameter.get(p)) and _fits(state, p)}
    optimizer.load_state_dict({**own, "state": {**own["state"], **kept}})
    return len(kept)


def _parameter_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of a network's parameters in their order, each by its first name in the state dict."""
    seen: dict[tuple[int, ...], str] = {}
    for name, tensor in weights.items():
        if not name.endswith(_BUFFERS):
            seen.setdefault((tensor.untyped_storage().data_ptr(), int(tensor.storage_offset())), name)
    return list(seen.values())


def _same_kind(group: Mapping[str, Any], optimizer: Optimizer) -> bool:
    own = optimizer.param_groups[0]
    return all((key in group) == (key in own) for key in ("momentum", "betas"))


def _fits(state: Mapping[str, Any], parameter: nn.Parameter) -> bool:
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.ndim]
    return all(value.shape == parameter.shape for value in tensors)
