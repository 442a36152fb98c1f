"""The ``pretrain_info`` entry of plans that follow a self-supervised pre-training (written by nnssl's tools)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunet_pt.plans.reading import ObjectReader, in_order

SHA256_KEY = "checkpoint_sha256"
CITATION_KEYS = ("apa_citations", "bibtex_citations")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainInfo:
    """Where pre-trained weights come from and how their network was built.

    Attributes:
        checkpoint_path: The checkpoint file.
        checkpoint_name: The user's name for the pre-training.
        key_to_encoder: Prefix of the encoder in the checkpoint's network weights.
        key_to_stem: Prefix of the stem.
        keys_to_in_proj: Prefixes of the modules whose weights depend on the number of input channels (aliases of one).
        key_to_lpe: Name of the learned positional embedding, if there is one.
        pt_num_in_channels: Input channels of the pre-trained network.
        pt_used_patchsize: Patch size of the pre-training.
        pt_recommended_downstream_patchsize: Patch size recommended for fine-tuning.
        citations: What to cite.
        checkpoint_sha256: Digest of the checkpoint, by which it is found again when it was moved. nnU-Net ignores it.
        extra: Entries of the file that are not known here.
        key_order: Keys as they were in the file.
    """

    checkpoint_path: str | None = None
    checkpoint_name: str | None = None
    key_to_encoder: str | None = None
    key_to_stem: str | None = None
    keys_to_in_proj: tuple[str, ...] = ()
    key_to_lpe: str | None = None
    pt_num_in_channels: int = 1
    pt_used_patchsize: tuple[int, ...] = ()
    pt_recommended_downstream_patchsize: tuple[int, ...] = ()
    citations: tuple[Any, ...] = ()
    checkpoint_sha256: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    key_order: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def read(cls, reader: ObjectReader) -> PretrainInfo:
        """Take the entries from a JSON object; problems are noted in the reader's findings."""
        return cls(
            checkpoint_path=reader.optional_text("checkpoint_path"),
            checkpoint_name=reader.optional_text("checkpoint_name"),
            key_to_encoder=reader.optional_text("key_to_encoder"),
            key_to_stem=reader.optional_text("key_to_stem"),
            keys_to_in_proj=reader.texts("keys_to_in_proj", default=()),
            key_to_lpe=reader.optional_text("key_to_lpe"),
            pt_num_in_channels=reader.integer("pt_num_in_channels", minimum=1, default=1),
            pt_used_patchsize=reader.integers("pt_used_patchsize", minimum=1, default=()),
            pt_recommended_downstream_patchsize=reader.integers(
                "pt_recommended_downstream_patchsize", minimum=1, default=()
            ),
            citations=reader.items("citations", default=()),
            checkpoint_sha256=reader.optional_text(SHA256_KEY),
            extra=reader.rest(),
            key_order=tuple(reader.data),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return in_order(self._values() | dict(self.extra), self.key_order, PretrainInfo()._values())

    def _values(self) -> dict[str, Any]:
        return {
            "checkpoint_path": self.checkpoint_path,
            "checkpoint_name": self.checkpoint_name,
            "key_to_encoder": self.key_to_encoder,
            "key_to_stem": self.key_to_stem,
            "keys_to_in_proj": list(self.keys_to_in_proj),
            "key_to_lpe": self.key_to_lpe,
            "pt_num_in_channels": self.pt_num_in_channels,
            "pt_used_patchsize": list(self.pt_used_patchsize),
            "pt_recommended_downstream_patchsize": list(self.pt_recommended_downstream_patchsize),
            "citations": list(self.citations),
            SHA256_KEY: self.checkpoint_sha256,
        }


def citation_lines(citations: Sequence[Any]) -> list[str]:
    """Citations as text, sorted by what they are for; entries of unknown form are shown as they are."""
    entries = [c if isinstance(c, Mapping) else {"apa_citations": [str(c)]} for c in citations]
    lines = []
    for entry in sorted(entries, key=lambda e: str(e.get("type", ""))):
        about = ": ".join(str(entry[key]) for key in ("type", "name") if entry.get(key))
        texts = [t for key in CITATION_KEYS for t in _texts(entry.get(key))]
        lines += [f"{about}: {text}" if about else text for text in texts] or [about or str(entry)]
    return lines


def _texts(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(v) for v in value] if isinstance(value, (list, tuple)) else []
