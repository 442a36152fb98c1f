"""The building blocks that plans name by dotted path, from fixed tables: nothing is imported by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import nn

from nnunet_pt.networks.arguments import place_of, suggestion
from nnunet_pt.plans.reading import ObjectReader

LayerClass = Callable[..., nn.Module]


def _dotted(module: str, *classes: LayerClass) -> dict[str, LayerClass]:
    """Both names of each class: where it is defined, and ``torch.nn``."""
    names = {c.__name__: c for c in classes}
    return {f"{prefix}.{n}": c for prefix in (f"torch.nn.modules.{module}", "torch.nn") for n, c in names.items()}


CONVOLUTIONS: Final = _dotted("conv", nn.Conv2d, nn.Conv3d)
NORMS: Final = {
    **_dotted("instancenorm", nn.InstanceNorm2d, nn.InstanceNorm3d),
    **_dotted("batchnorm", nn.BatchNorm2d, nn.BatchNorm3d),
}
DROPOUTS: Final = _dotted("dropout", nn.Dropout, nn.Dropout2d, nn.Dropout3d)
NONLINEARITIES: Final = _dotted(
    "activation", nn.LeakyReLU, nn.ReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Softplus, nn.Tanh,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operator:
    """A layer class with its arguments.

    Attributes:
        layer: The class.
        kwargs: Its keyword arguments.
    """

    layer: LayerClass
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dimensions(self) -> int | None:
        """Number of image axes that the class is made for; None if it takes any."""
        last: str = self.layer.__name__[-2:]
        return int(last[0]) if last in ("2d", "3d") else None

    def build(self, *args: object) -> nn.Module:
        """A new layer."""
        return self.layer(*args, **self.kwargs)


def read_layer_class(reader: ObjectReader, key: str, table: Mapping[str, LayerClass]) -> LayerClass | None:
    """The class that an entry names; None if it names none or none that is known, which is noted."""
    name = reader.optional_text(key)
    if name is not None and name not in table:
        reader.findings.add(
            place_of(reader, key), f"is {name!r}, which is not one of the layers{suggestion(name, table)}"
        )
        return None
    return None if name is None else table[name]


def read_operator(
    reader: ObjectReader, key: str, table: Mapping[str, LayerClass], *, dimensions: int, args: tuple[object, ...] = ()
) -> Operator | None:
    """An optional layer with its arguments (``<key>_kwargs``); problems are noted.

    Args:
        reader: The network's arguments.
        key: Entry with the class.
        table: Classes that may be named.
        dimensions: Number of image axes of the network.
        args: Positional arguments of the class, for trying whether the keyword arguments are right.
    """
    layer = read_layer_class(reader, key, table)
    kwargs = _read_kwargs(reader, f"{key}_kwargs")
    if layer is None:
        return None
    operator = Operator(layer, kwargs)
    if operator.dimensions not in (None, dimensions):
        reader.findings.add(place_of(reader, key), f"is made for {operator.dimensions}D, but conv_op for {dimensions}D")
    try:
        operator.build(*args)
    except (TypeError, ValueError) as error:
        reader.findings.add(place_of(reader, f"{key}_kwargs"), f"does not fit {reader.data[key]}: {error}")
    return operator


def _read_kwargs(reader: ObjectReader, key: str) -> Mapping[str, Any]:
    value = reader.data.get(key)
    return {} if value is None else reader.mapping(key)
