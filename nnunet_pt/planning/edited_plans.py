"""Plans that are to be written anew although they are there: a person may have edited them in between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import NnunetError, UsageError
from nnunet_pt.core.files import plain_json
from nnunet_pt.plans.plans import Plans
from nnunet_pt.plans.pretrain_info import SHA256_KEY

_OF_THE_FILE = ("pretrain_info.checkpoint_path", f"pretrain_info.{SHA256_KEY}")
_log = get_logger(__name__)


def with_edits(plans: Plans, path: Path) -> Plans:
    """The plans with the values of the file that they would replace; only where the checkpoint is, is always new.

    Plans that cannot be read are replaced.

    Args:
        plans: What would be written.
        path: Where.

    Raises:
        UsageError: If those in the file are for another network.
    """
    if not path.is_file():
        return plans
    try:
        there = Plans.load(path)
    except NnunetError:
        return plans
    different = [name for name in _differences(_values(there), _values(plans)) if name not in _OF_THE_FILE]
    if not different:
        return plans
    if any("architecture" in name.split(".") for name in different):
        raise UsageError(
            f"The plans {path.stem} are there, for another network.",
            found=f"other values in {path}: {', '.join(different)}",
            remedy="choose another name with -n; or replace the plans with --force",
        )
    _log.warning(
        "%s keeps its values, which are not those that would be written now (edited, or made from other plans of the "
        "dataset): %s. To replace them: --force",
        path,
        ", ".join(different),
    )
    if there.pretrain_info is None or plans.pretrain_info is None:
        return there
    new = plans.pretrain_info
    info = replace(there.pretrain_info, checkpoint_path=new.checkpoint_path, checkpoint_sha256=new.checkpoint_sha256)
    return replace(there, pretrain_info=info)


def _values(plans: Plans) -> Any:
    """What the file of the plans holds, whatever numbers and lists are in memory."""
    return json.loads(json.dumps(plain_json(plans.to_json())))


def _differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Names of the entries that differ."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        if one != other:
            yield name
        return
    for key in dict.fromkeys([*one, *other]):
        yield from _differences(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
