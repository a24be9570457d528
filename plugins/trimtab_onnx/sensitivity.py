"""Which layers quantization hurts, judged by the float model's own answers: no label is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Outcome", "loss", "put_back"]

Answers = npt.NDArray[np.float32]


def loss(before: Answers, after: Answers) -> float:
    """Return how much of its quality a model loses by answering ``after`` instead of ``before``, as a fraction.

    Of probabilities ``[rows, classes]``: the share of right answers that is lost if the model's own
    probabilities are true. A row whose two best classes were equally likely costs nothing when it flips,
    and so this is far below the share of changed answers. Of numbers ``[rows, 1]``: the root mean square
    of the change over the standard deviation of the answers. An answer that is not finite counts as wrong.

    Examples
    --------
    >>> before = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    >>> loss(before, before[:, ::-1])
    0.25
    >>> numbers = np.array([[1.0], [3.0]], np.float32)
    >>> loss(numbers, numbers + 0.5)
    0.5
    """
    if before.shape[1] == 1:
        change = np.where(np.isfinite(after), after - before, np.inf).astype(np.float64)
        spread = float(before.std()) or 1.0
        return float(np.sqrt((change**2).mean()) / spread)
    rows = np.arange(len(before))
    chosen = before[rows, np.nan_to_num(after).argmax(axis=1)]
    chosen = np.where(np.isfinite(after).all(axis=1), chosen, 0.0)
    return round(float((before.max(axis=1) - chosen).mean(dtype=np.float64)), 9)


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
