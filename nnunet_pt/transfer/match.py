"""Which tensor of a file belongs to which tensor of a network, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from nnunet_pt.transfer.adaptation_plan import NetworkKeys
from nnunet_pt.transfer.names import decoder_level, lies_in


def counterparts(
    targets: Iterable[str], sources: Iterable[str], *, target_keys: NetworkKeys, source_keys: NetworkKeys | None
) -> dict[str, str]:
    """Target name to source name, where there is one.

    Parts are found by the keys that nnssl gives. Without keys, or if the file has nothing of that name, a prefix that
    one side has and the other lacks is recognised: that with which most names agree. Encoder stages are counted from
    the highest resolution, as they are named; decoder stages are named from the lowest and counted from the highest.

    Args:
        targets: Plainest names in the network.
        sources: Plainest names in the file.
        target_keys: How the network names its parts.
        source_keys: How the file names its parts, if known.
    """
    wanted, present = list(targets), set(sources)
    if source_keys is not None and any(lies_in(name, source_keys.encoder) for name in present):
        translated = {name: _by_keys(name, target_keys, source_keys) for name in wanted}
    else:
        theirs, ours = _wrapper(wanted, present)
        translated = {name: theirs + name.removeprefix(ours) for name in wanted if name.startswith(ours)}
    levels_here, levels_there = _levels(translated), _levels({n: n for n in present})
    found = {}
    for name, other in translated.items():
        shifted = _shift_level(name, other, levels_here, levels_there)
        if shifted in present:
            found[name] = shifted
    return found


def _by_keys(name: str, target: NetworkKeys, source: NetworkKeys) -> str:
    if target.positions is not None and name == target.positions and source.positions is not None:
        return source.positions
    if lies_in(name, target.stem) and not lies_in(target.stem, target.encoder):
        return source.stem + name.removeprefix(target.stem)
    if lies_in(name, target.encoder):
        return source.encoder + name.removeprefix(target.encoder)
    return source.encoder.removesuffix(target.encoder) + name  # what is around the encoder is wrapped like it


def _wrapper(targets: Iterable[str], sources: Iterable[str]) -> tuple[str, str]:
    """The prefix that names in the file have and those in the network lack, and the other way round."""
    wanted, present = set(targets), set(sources)
    votes: Counter[tuple[str, str]] = Counter({("", ""): len(wanted & present)})
    for name in present:
        votes.update((prefix, "") for prefix, rest in _splits(name) if rest in wanted)
    for name in wanted:
        votes.update(("", prefix) for prefix, rest in _splits(name) if rest in present)
    return max(votes, key=lambda pair: (votes[pair], pair == ("", ""), -len(pair[0] + pair[1])))


def _splits(name: str) -> Iterator[tuple[str, str]]:
    pieces = name.split(".")
    for i in range(1, len(pieces) - 1):
        yield ".".join(pieces[:i]) + ".", ".".join(pieces[i:])


def _levels(names: dict[str, str]) -> dict[str, int]:
    """How many levels the decoders of the U-Net and of Primus have; names of the values count."""
    counts: dict[str, int] = {}
    for name in names:
        level = decoder_level(name)
        if level is not None and "seg_layers" not in level[0]:
            family = _family(level[0])
            counts[family] = max(counts.get(family, 0), level[1] + 1)
    return counts


def _family(beginning: str) -> str:
    return "up_projection" if "up_projection" in beginning else "decoder"


def _shift_level(name: str, other: str, here: dict[str, int], there: dict[str, int]) -> str | None:
    """The name in the file, with the number of a decoder's stage counted from the highest resolution."""
    level, theirs = decoder_level(name), decoder_level(other)
    if level is None or theirs is None:
        return other
    family = _family(level[0])
    number = level[1] + there.get(family, 0) - here.get(family, 0)
    return f"{theirs[0]}{number}{theirs[2]}" if number >= 0 else None
