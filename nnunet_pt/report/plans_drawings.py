"""Drawings of the plans report: the network stage by stage, and the patch within the median image.

They are written as SVG by hand, because boxes with text in them come out crisper and smaller than plots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from nnunet_pt.networks.unet import UNetDescription
from nnunet_pt.report.page import COLOURS, TIMES, sizes

_ENCODER, _DECODER, _BOTTLENECK = COLOURS[0], COLOURS[2], COLOURS[4]
_WIDTH: Final = 980
_BOX_HEIGHT: Final = 66
_ROW: Final = 106
_TOP: Final = 64
_DEPTH: Final = (0.42, 0.32)  # of a unit that goes into the picture: to the right, and up
_PATCH_WIDTH: Final = 420
_PATCH_HEIGHT: Final = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a U-Net.

    Attributes:
        part: "encoder", "bottleneck" or "decoder".
        level: From 0, the highest resolution.
        features: Channels.
        size: Voxels of its feature maps along each axis.
        blocks: How many convolutions, or residual blocks.
        kernel: Kernel size along each axis.
        stride: How much smaller each axis gets on the way into it (encoder), or larger (decoder).
        values: Values that its convolutions produce.
    """

    part: str
    level: int
    features: int
    size: tuple[int, ...]
    blocks: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    values: int


def unet_stages(description: UNetDescription, patch_size: Sequence[int], *, residual: bool) -> list[Stage]:
    """The stages of a U-Net in the order in which a patch passes them.

    Values are counted as in :mod:`nnunet_pt.networks.memory`, but for the segmentation layer.
    """
    stages: list[Stage] = []
    size = tuple(patch_size)
    previous = description.stem_features or description.features[0]
    stem = description.features[0] * _product(size) if residual else 0
    for level, features in enumerate(description.features):
        stride = description.strides[level]
        size = tuple(n // s for n, s in zip(size, stride, strict=True))
        layers = description.encoder[level]
        if residual:  # two convolutions each, and one more where the skip is projected
            layers = 2 * layers + (features != previous or any(s > 1 for s in stride))
        previous = features
        stages.append(
            Stage(
                part="bottleneck" if level == len(description.features) - 1 else "encoder",
                level=level,
                features=features,
                size=size,
                blocks=description.encoder[level],
                kernel=description.kernel_sizes[level],
                stride=stride,
                values=layers * features * _product(size) + (stem if level == 0 else 0),
            )
        )
    for level, blocks in zip(reversed(range(len(stages) - 1)), description.decoder, strict=True):
        partner = stages[level]
        stages.append(
            Stage(
                part="decoder",
                level=level,
                features=partner.features,
                size=partner.size,
                blocks=blocks,
                kernel=partner.kernel,
                stride=stages[level + 1].stride,
                values=(blocks + 1) * partner.features * _product(partner.size),
            )
        )
    return stages


def _product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def unet_drawing(stages: Sequence[Stage], *, residual: bool, input_text: str, output_text: str) -> str:
    """The U: encoder on the left, decoder on the right, the lowest resolution at the bottom.

    Args:
        stages: See :func:`unet_stages`.
        residual: Whether the encoder has residual blocks.
        input_text: What goes in.
        output_text: What comes out.
    """
    levels = 1 + max(stage.level for stage in stages)
    largest = max(stage.values for stage in stages)
    height = _TOP + (levels - 1) * _ROW + _BOX_HEIGHT + 10
    parts = [_arrow_head()]
    for stage in stages:
        parts.append(_stage_box(stage, levels, stage.values / largest, residual=residual))
        parts.append(_way_in(stage, levels))
    first = _box(stages[0], levels)
    left, right = first[0] + first[2] / 2, _WIDTH - first[0] - first[2] / 2
    parts += [
        _text(left, 20, input_text, size=13),
        _line(left, 28, left, _TOP - 4),
        _text(right, 20, output_text, size=13),
        _line(right, _TOP, right, 30),
    ]
    label = f"U-Net with {levels} stages: {input_text}, {output_text}"
    return _svg(_WIDTH, height, parts, label)


def _box(stage: Stage, levels: int) -> tuple[float, float, float]:
    """Left edge, top and width of a stage's box."""
    top = _TOP + stage.level * _ROW
    if stage.part == "bottleneck":
        return _WIDTH / 2 - 100, top, 200
    share = stage.level / max(1, levels - 2)
    width = 226 - 40 * share
    centre = _WIDTH / 2 - (340 - 200 * share)
    left = centre - width / 2
    return (left if stage.part == "encoder" else _WIDTH - left - width), top, width


def _stage_box(stage: Stage, levels: int, share: float, *, residual: bool) -> str:
    left, top, width = _box(stage, levels)
    colour = {"encoder": _ENCODER, "decoder": _DECODER, "bottleneck": _BOTTLENECK}[stage.part]
    what = "residual block" if residual and stage.part != "decoder" else "convolution"
    many = f"{stage.blocks}{TIMES}{what}{'s' if stage.blocks > 1 else ''} {_compact(stage.kernel)}"
    centre = left + width / 2
    return (
        f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BOX_HEIGHT}" rx="9" fill="{colour}" '
        f'fill-opacity="{0.07 + 0.38 * share:.2f}" stroke="{colour}" stroke-width="1.5"/>'
        + _text(centre, top + 21, f"{stage.features} features", size=14, bold=True)
        + _text(centre, top + 40, sizes(stage.size), size=13)
        + _text(centre, top + 57, many, size=11.5, soft=True)
    )


def _way_in(stage: Stage, levels: int) -> str:
    """The arrow that leads into a stage from the one before, and the skip connection of a decoder stage."""
    left, top, width = _box(stage, levels)
    centre, bottom = left + width / 2, top + _BOX_HEIGHT
    if stage.part == "decoder":
        start = _WIDTH - _outer_centre(stage.level + 1, levels)
        if stage.level + 2 == levels:
            start = _WIDTH / 2 + 50
        line = _line(start, bottom + _ROW - _BOX_HEIGHT, centre, bottom + 5)
        factor = f"{TIMES.strip()} {_compact(stage.stride)}"
        label = _text((start + centre) / 2 + 18, bottom + 33, factor, anchor="start")
        mirrored = _WIDTH - left - width
        skip = _line(mirrored + width + 3, top + 33, left - 5, top + 33, dashed=True)
        return line + label + skip
    if stage.level == 0:
        return ""
    start = _outer_centre(stage.level - 1, levels)
    end = _WIDTH / 2 - 50 if stage.part == "bottleneck" else centre
    line = _line(start, top - _ROW + _BOX_HEIGHT, end, top - 5)
    return line + _text((start + end) / 2 - 18, top - 7, f"\N{DIVISION SIGN} {_compact(stage.stride)}", anchor="end")


def _outer_centre(level: int, levels: int) -> float:
    """Centre of the encoder's box."""
    return _WIDTH / 2 - (340 - 200 * level / max(1, levels - 2))


def patch_drawing(patch_mm: Sequence[float], image_mm: Sequence[float]) -> str:
    """The patch within the median image, both to scale and around the same centre.

    Args:
        patch_mm: Size along each of two or three axes; the last one goes to the right, the one before into the picture
            (of three) or down (of two).
        image_mm: Size of the median image along the same axes.
    """
    solids = [_extents(size) for size in (image_mm, patch_mm)]
    width = max(w + d * _DEPTH[0] for w, _, d in solids)
    height = max(h + d * _DEPTH[1] for _, h, d in solids)
    scale = min((_PATCH_WIDTH - 20) / width, (_PATCH_HEIGHT - 20) / height)
    total = (width * scale + 20, height * scale + 20)
    image, patch = ([v * scale for v in solid] for solid in solids)
    parts = [
        _solid(image, total, "currentColor", fill=0.04),
        _solid(patch, total, COLOURS[1], fill=0.22),
    ]
    return _svg(*total, parts, "The patch within the median image")


def _extents(size: Sequence[float]) -> tuple[float, float, float]:
    """Width, height and depth."""
    return (size[-1], size[0], size[1]) if len(size) == 3 else (size[1], size[0], 0.0)


def _solid(size: Sequence[float], total: tuple[float, float], colour: str, fill: float) -> str:
    width, height, depth = size
    right, up = depth * _DEPTH[0], depth * _DEPTH[1]
    x, y = (total[0] - width - right) / 2, (total[1] - height - up) / 2 + up
    front = f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}z"
    style = f'fill="{colour}" fill-opacity="{fill}" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"'
    if not depth:
        return f'<path d="{front}" {style}/>'
    top = f"M{x:.1f} {y:.1f}l{right:.1f} {-up:.1f}h{width:.1f}l{-right:.1f} {up:.1f}z"
    side = f"M{x + width:.1f} {y:.1f}l{right:.1f} {-up:.1f}v{height:.1f}l{-right:.1f} {up:.1f}z"
    back = (
        f"M{x:.1f} {y + height:.1f}l{right:.1f} {-up:.1f}h{width:.1f}"
        f"M{x + right:.1f} {y + height - up:.1f}v{-height:.1f}"
    )
    hidden = f'<path d="{back}" fill="none" stroke="{colour}" stroke-opacity=".45" stroke-dasharray="4 4"/>'
    return hidden + "".join(f'<path d="{face}" {style}/>' for face in (front, top, side))


def _compact(values: Sequence[int]) -> str:
    return "\N{MULTIPLICATION SIGN}".join(map(str, values))


def _text(
    x: float, y: float, words: str, *, size: float = 12, bold: bool = False, soft: bool = False, anchor: str = "middle"
) -> str:
    weight = ' font-weight="600"' if bold else ""
    opacity = ' fill-opacity=".75"' if soft else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"{weight}{opacity}>'
        f"{escape(words)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 5" stroke-opacity=".45"' if dashed else ' stroke-opacity=".7"'
    return (
        f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" fill="none" stroke="currentColor" stroke-width="1.5"{dash} '
        'marker-end="url(#arrow-head)"/>'
    )


def _arrow_head() -> str:
    return (
        '<defs><marker id="arrow-head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 0.5 7 4 0 7.5z"/></marker></defs>'
    )


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{width:.0f}px" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
