"""What a fine-tuning began with, read from ``transfer_report.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.files import read_json
from nnunet_pt.transfer.account import ACTIONS, StageShare


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The account of a transfer of weights.

    Attributes:
        source: The file that the weights came from.
        kind: What kind of file it was.
        sha256: Its digest.
        policy: How weights were transferred.
        share: Share of all parameters that came from the file.
        encoder_share: The same of the encoder.
        notes: What is to be said about the transfer as a whole.
        stages: The account by stage.
        num_unused: Tensors of the file without a place in the network.
    """

    source: str
    kind: str
    sha256: str
    policy: str
    share: float
    encoder_share: float
    notes: tuple[str, ...]
    stages: tuple[StageShare, ...]
    num_unused: int


def read_transfer(path: Path) -> Transfer:
    """Read ``transfer_report.json``.

    Raises:
        StorageError: If it is missing or damaged.
    """
    data = read_json(path)
    try:
        return Transfer(
            source=str(data["source"]["path"]),
            kind=str(data["source"]["kind"]),
            sha256=str(data["source"]["sha256"]),
            policy=str(data["policy"]),
            share=float(data["share"]),
            encoder_share=float(data["encoder_share"]),
            notes=tuple(map(str, data["notes"])),
            stages=tuple(
                StageShare(
                    stage=str(s["stage"]),
                    part=s["part"],
                    tensors={action: int(s[action]) for action in ACTIONS},
                    parameters=int(s["parameters"]),
                    transferred=int(s["transferred"]),
                    notes=tuple(map(str, s["notes"])),
                )
                for s in data["stages"]
            ),
            num_unused=len(data["unused_in_source"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{path} is not the account of a transfer.", found=f"{type(error).__name__}: {error}"
        ) from error
