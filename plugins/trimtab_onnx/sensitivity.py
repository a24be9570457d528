"""Which layers quantization hurts, found by quantizing each alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Outcome", "put_back"]


@dataclass(frozen=True)
class Outcome:
    """What was put back into float, in the order in which it was, and what is lost then."""

    in_float: tuple[str, ...]
    lost: float


def put_back(layers: Sequence[str], lost: Callable[[frozenset[str]], float], most: float) -> Outcome:
    """Put layers back into float, the one that hurts most first, until no more than ``most`` is lost.

    How much a layer hurts is what is lost when it alone is quantized. At most half of the layers go back:
    beyond that little is left of what quantization is for.

    Parameters
    ----------
    layers
        Names of all that are quantized.
    lost
        What is lost when these are in float; the last call is about what is returned.
    most
        That may be lost.

    Examples
    --------
    >>> hurts = {"a": 0.01, "b": 0.3, "c": 0.02, "d": 0.0}
    >>> put_back(list(hurts), lambda kept: sum(hurts[n] for n in hurts if n not in kept), 0.05)
    Outcome(in_float=('b',), lost=0.03)
    """
    whole = lost(frozenset())
    if whole <= most:
        return Outcome((), whole)
    alone = {name: lost(frozenset(layers) - {name}) for name in layers}
    worst_first = sorted(layers, key=lambda name: (-alone[name], layers.index(name)))
    outcome = Outcome((), whole)
    for count in range(1, len(layers) // 2 + 1):
        kept = tuple(worst_first[:count])
        outcome = Outcome(kept, lost(frozenset(kept)))
        if outcome.lost <= most:
            break
    return outcome
