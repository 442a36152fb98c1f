"""Drawings and images as parts of a page: SVG in the colours of the page, and images as text."""

from __future__ import annotations

import io
import re
from hashlib import blake2b
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MAX_COLOURS: Final = 256
_WEBP_QUALITY: Final = 88


def inline_svg(document: str, alt: str, width_px: int) -> str:
    """The ``svg`` element alone, in the text colour, with names that no other figure of the page has."""
    content = document[document.index("<svg") :]
    content = with_own_names(re.sub(r"<metadata>.*?</metadata>", "", content, flags=re.DOTALL))
    content = re.sub(r"(fill|stroke): #000000\b", r"\1: currentColor", content)
    box = re.search(r'viewBox="[^"]*"', content)
    opening = (
        f'<svg {box[0] if box else ""} role="img" aria-label="{escape(alt)}" style="max-width:{width_px}px" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"\n\s*", "\n", opening + content[content.index(">") + 1 :].strip())


def with_own_names(drawing: str) -> str:
    """The drawing with names for its parts that no other drawing of the page has; unused names are dropped."""
    prefix = blake2b(drawing.encode(), digest_size=4).hexdigest()
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", drawing))
    drawing = re.sub(r' id="([^"]*)"', lambda m: f' id="f{prefix}-{m[1]}"' if m[1] in used else "", drawing)
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>f{prefix}-", drawing)


def encoded(rgb_hwc: NDArray[np.uint8]) -> tuple[str, bytes]:
    """An image as a small file.

    Args:
        rgb_hwc: (height, width, 3).

    Returns:
        "png" if there are few colours or Pillow knows no WebP, else "webp"; and the content.
    """
    from PIL import Image, features

    image = Image.fromarray(np.ascontiguousarray(rgb_hwc))
    content = io.BytesIO()
    few_colours = image.getcolors(_MAX_COLOURS) is not None
    if few_colours or not features.check("webp"):
        # A palette of more colours than it has room for would lose those of small structures
        (image.quantize(_MAX_COLOURS) if few_colours else image).save(content, "PNG", optimize=True)
        return "png", content.getvalue()
    image.save(content, "WEBP", quality=_WEBP_QUALITY)
    return "webp", content.getvalue()
