"""What nnssl says about a pre-trained network: its architecture, its parts' names, the images it was trained with.

The plan is inside a checkpoint (``nnssl_adaptation_plan``) or in a file ``adaptation_plan.json`` near it. Plans of
early versions and plans that people wrote by hand lack entries or name them differently; all forms are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nnunet_pt.core.errors import CheckpointError, UnknownNameError
from nnunet_pt.core.files import read_json
from nnunet_pt.plans.configuration import Architecture
from nnunet_pt.plans.reading import is_integer, is_list, is_number

KEY_IN_CHECKPOINT: Final = "nnssl_adaptation_plan"
FILE_NAME: Final = "adaptation_plan.json"
DEFAULT_PATCH_SIZE: Final = (160, 160, 160)

_OTHER_NAMES: Final = {  # key -> how early versions and other tools call it
    "key_to_encoder": ("state_dict_key_to_encoder",),
    "key_to_stem": ("state_dict_key_to_stem",),
    "keys_to_in_proj": ("key_to_in_proj",),
    "pretrain_num_input_channels": ("num_input_channels",),
    "recommended_downstream_patchsize": ("recommended_downstream_patch_size",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkKeys:
    """How a network names its parts.

    Attributes:
        encoder: Prefix of the encoder.
        stem: Prefix of the stem; may lie in the encoder.
        in_proj: Prefixes of the modules whose weights depend on the number of input channels; several are aliases.
        positions: Name of the learned positional embedding; None if there is none.
    """

    encoder: str
    stem: str
    in_proj: tuple[str, ...]
    positions: str | None = None


PRIMUS_KEYS: Final = NetworkKeys(
    encoder="eva", stem="down_projection", in_proj=("down_projection.proj",), positions="eva.pos_embed"
)
RESIDUAL_KEYS: Final = NetworkKeys(
    encoder="encoder.stages",
    stem="encoder.stem",
    in_proj=("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"),
)
PLAIN_KEYS: Final = NetworkKeys(
    encoder="encoder.stages",
    stem="encoder.stages.0",
    in_proj=("encoder.stages.0.0.convs.0.all_modules.0", "encoder.stages.0.0.convs.0.conv"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationPlan:
    """nnssl's description of a pre-trained network.

    Attributes:
        architecture: The network; a name alone for those of fixed size.
        keys: How its parts are named.
        patch_size: Patch size of the pre-training; None if the plan does not say.
        pretrain_patch_size: Takes its place where positions are concerned; hardly ever given.
        recommended_patch_size: Patch size recommended for fine-tuning.
        spacing: Voxel size of the pre-training in mm; None if images were not resampled, or if the plan does not say.
        spacing_style: ``onemmiso``, ``median``, ``noresample`` or another name; None if the plan does not say.
        normalization_schemes: Names of the normalisation of each channel.
        num_input_channels: Channels of the pre-training's images.
        citations: What to cite, as in the file.
        raw: The plan as it was read, tuples as lists.
        source: Where it was found, for messages.
    """

    architecture: Architecture
    keys: NetworkKeys
    patch_size: tuple[int, ...] | None = None
    pretrain_patch_size: tuple[int, ...] | None = None
    recommended_patch_size: tuple[int, ...] = DEFAULT_PATCH_SIZE
    spacing: tuple[float, ...] | None = None
    spacing_style: str | None = None
    normalization_schemes: tuple[str, ...] = ()
    num_input_channels: int = 1
    citations: tuple[Any, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    source: str = field(default="adaptation plan", compare=False)

    @property
    def key_to_encoder(self) -> str:
        """Prefix of the encoder in the checkpoint."""
        return self.keys.encoder

    @property
    def key_to_stem(self) -> str:
        """Prefix of the stem in the checkpoint."""
        return self.keys.stem

    @property
    def keys_to_in_proj(self) -> tuple[str, ...]:
        """Prefixes of the modules whose weights depend on the number of input channels."""
        return self.keys.in_proj

    @property
    def key_to_lpe(self) -> str | None:
        """Name of the learned positional embedding."""
        return self.keys.positions

    @property
    def position_patch_size(self) -> tuple[int, ...] | None:
        """The patch size that the positional embedding belongs to."""
        return self.pretrain_patch_size or self.patch_size

    @classmethod
    def from_json(cls, data: object, source: Path | str) -> AdaptationPlan:
        """Read a plan.

        Args:
            data: The plan, with lists or tuples.
            source: Where it comes from, for messages.

        Raises:
            CheckpointError: With everything that is missing or wrong.
        """
        if not isinstance(data, Mapping):
            raise _unusable(source, [f"it is a {type(data).__name__}, expected an object {{...}}"])
        return _Reader(data, str(source)).plan()

    def check_architecture(self) -> None:
        """Make sure that the network can be built here.

        Raises:
            UnknownNameError: If there is no such network; names the known ones.
        """
        from nnunet_pt.networks.build import NETWORKS  # here, because it is slow to import

        name = self.architecture.short_name
        if name not in NETWORKS:
            raise UnknownNameError.of(f"network (wanted by {self.source})", name, NETWORKS)

    def to_json(self) -> dict[str, Any]:
        """The plan as it was read."""
        return dict(self.raw)


def find_beside(checkpoint: Path) -> Path | None:
    """The ``adaptation_plan.json`` beside a checkpoint or in the folder above, where nnssl writes it."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    return None


def load(path: Path) -> AdaptationPlan:
    """Read an ``adaptation_plan.json``.

    Raises:
        CheckpointError: With everything that is missing or wrong.
        StorageError: If it cannot be read or is not JSON.
    """
    return AdaptationPlan.from_json(read_json(path), path)


class _Reader:
    """Takes the entries of one plan and notes what is wrong with them."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        self._data = data
        self._source = source
        self._findings: list[str] = []

    def plan(self) -> AdaptationPlan:
        architecture = self._architecture()
        configuration = self._configuration()
        patch = configuration.get("patch_size", self._data.get("input_patch_size"))
        plan = AdaptationPlan(
            architecture=architecture,
            keys=self._keys(architecture.short_name),
            patch_size=self._sizes("patch_size", patch),
            pretrain_patch_size=self._sizes("pretrain_patch_size", self._data.get("pretrain_patch_size")),
            recommended_patch_size=self._sizes(
                "recommended_downstream_patchsize", self._get("recommended_downstream_patchsize")
            )
            or DEFAULT_PATCH_SIZE,
            spacing=self._spacing(configuration.get("spacing")),
            spacing_style=None if configuration.get("spacing_style") is None else str(configuration["spacing_style"]),
            normalization_schemes=self._texts("normalization_schemes", configuration.get("normalization_schemes")),
            num_input_channels=self._channels(),
            citations=citations_in(self._data.get("citations")),
            raw=_plain(self._data),
            source=self._source,
        )
        if self._findings:
            raise _unusable(self._source, self._findings)
        return plan

    def _get(self, key: str) -> Any:
        names = (key, *_OTHER_NAMES.get(key, ()))
        return next((self._data[n] for n in names if self._data.get(n) is not None), None)

    def _architecture(self) -> Architecture:
        plans = self._data.get("architecture_plans")
        entries: Mapping[str, Any] = plans if isinstance(plans, Mapping) else self._data
        name = entries.get("arch_class_name") or entries.get("architecture_name")
        if not isinstance(name, str):
            self._findings.append("architecture_plans.arch_class_name is missing, expected the name of a network")
            name = ""
        arguments = entries.get("arch_kwargs") or {}
        if not isinstance(arguments, Mapping):
            self._findings.append(f"architecture_plans.arch_kwargs is {arguments!r}, expected an object")
            arguments = {}
        classes = self._texts("arch_kwargs_requiring_import", entries.get("arch_kwargs_requiring_import"))
        return Architecture(network_class_name=name, arch_kwargs=_plain(arguments), requires_import=classes)

    def _configuration(self) -> Mapping[str, Any]:
        """The one configuration of the pre-training; nothing if the plan has none."""
        plan = self._data.get("pretrain_plan")
        configurations = plan.get("configurations") if isinstance(plan, Mapping) else None
        first = next(iter(configurations.values()), None) if isinstance(configurations, Mapping) else None
        return first if isinstance(first, Mapping) else {}

    def _keys(self, architecture: str) -> NetworkKeys:
        usual = usual_keys(architecture)
        in_proj = self._get("keys_to_in_proj")
        in_proj = (in_proj,) if isinstance(in_proj, str) else in_proj
        texts = {key: self._text(key) for key in ("key_to_encoder", "key_to_stem", "key_to_lpe")}
        return NetworkKeys(
            encoder=texts["key_to_encoder"] or usual.encoder,
            stem=texts["key_to_stem"] or usual.stem,
            in_proj=usual.in_proj if in_proj is None else self._texts("keys_to_in_proj", in_proj),
            positions=texts["key_to_lpe"] if "key_to_lpe" in self._data else usual.positions,
        )

    def _texts(self, key: str, value: object) -> tuple[str, ...]:
        if value is None:
            return ()
        if is_list(value) and all(isinstance(text, str) for text in value):  # type: ignore[attr-defined]
            return tuple(value)  # type: ignore[arg-type]
        self._findings.append(f"{key} is {value!r}, expected a list of names")
        return ()

    def _text(self, key: str) -> str | None:
        value = self._get(key)
        if value is not None and not isinstance(value, str):
            self._findings.append(f"{key} is {value!r}, expected a name")
            return None
        return value

    def _sizes(self, key: str, value: object) -> tuple[int, ...] | None:
        if value is None:
            return None
        if is_list(value) and all(is_number(n) and float(n).is_integer() and n > 0 for n in value):  # type: ignore[attr-defined]
            return tuple(int(n) for n in value)  # type: ignore[attr-defined]
        self._findings.append(f"{key} is {value!r}, expected a list of whole numbers above 0")
        return None

    def _spacing(self, value: object) -> tuple[float, ...] | None:
        if value is None or (is_list(value) and all(n is None for n in value)):  # type: ignore[attr-defined]
            return None
        if is_list(value) and all(is_number(n) and n > 0 for n in value):  # type: ignore[attr-defined]
            return tuple(value)  # type: ignore[arg-type]
        self._findings.append(f"spacing is {value!r}, expected a list of numbers above 0, or null")
        return None

    def _channels(self) -> int:
        value = self._get("pretrain_num_input_channels")
        if value is None:
            return 1
        if is_integer(value) and value > 0:
            return int(value)
        self._findings.append(f"pretrain_num_input_channels is {value!r}, expected a whole number above 0")
        return 1


def usual_keys(architecture: str) -> NetworkKeys:
    """How a network names its parts unless somebody wrapped it.

    Args:
        architecture: Name of the network's class.
    """
    if "Primus" in architecture or "Eva" in architecture:
        return PRIMUS_KEYS
    return PLAIN_KEYS if architecture == "PlainConvUNet" else RESIDUAL_KEYS


def citations_in(value: object) -> tuple[Any, ...]:
    """What to cite, from an entry that should be a list and may be a single text or object."""
    return tuple(value) if is_list(value) else (value,) if value else ()  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _unusable(source: Path | str, findings: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{source} is not a usable adaptation plan of nnssl.",
        found="\n            ".join(findings),
        remedy="correct these entries in a file adaptation_plan.json beside the checkpoint, or get the file again",
    )
