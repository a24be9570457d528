"""Which layers need how many bits: each is tried alone with few, and those that hurt most are given more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trimtab.agreement import Outputs, loss
from trimtab.artifact import ONNX, Model
from trimtab.data import Rows
from trimtab.errors import OutOfTimeError
from trimtab.technique import Job
from trimtab_onnx.runtime import OnnxRuntime

__all__ = ["WHOLE", "Outcome", "Trial", "allot", "divergence", "put_back"]

WHOLE = 32
"""Bits of a layer that stays as it is."""
Bits = Mapping[str, int]


@dataclass(frozen=True)
class Outcome:
    """How many bits each layer got, what is lost then, and which stayed float, in the order in which they were told to.

    Parameters
    ----------
    bits
        By layer.
    lost
        Loss of quality, as a fraction.
    in_float
        Layers of :data:`WHOLE` bits.
    """

    bits: Bits
    lost: float
    in_float: tuple[str, ...] = ()


def allot(
    widths: Mapping[str, Sequence[int]],
    lost: Callable[[Bits], float],
    most: float,
    *,
    hurts: Callable[[Bits], float] | None = None,
    sizes: Mapping[str, int] | None = None,
    floats: int | None = None,
) -> Outcome:
    """Give every layer the fewest bits, and then more where that saves most, until no more than ``most`` is lost.

    How much a layer hurts is what is lost when it alone has so few bits. The next layer to be widened, and to
    how many bits, is where a bit more of the file takes away most of that.

    Parameters
    ----------
    widths
        Bits that each layer may have, few first, the last of them :data:`WHOLE`.
    lost
        What is lost at so many bits a layer; the last call is about what is returned.
    most
        That may be lost.
    hurts
        A finer measure to rank layers by than ``lost``, which is zero where no answer flips; the same by default.
    sizes
        Weights of each layer; without them a layer counts as much as any other.
    floats
        Most layers that may stay whole; all of them by default.

    Examples
    --------
    >>> hurt = {"a": {4: 0.2, 8: 0.01, 32: 0.0}, "b": {4: 0.02, 8: 0.0, 32: 0.0}}
    >>> allot({n: (4, 8, 32) for n in hurt}, lambda bits: sum(hurt[n][b] for n, b in bits.items()), 0.05).bits
    {'a': 8, 'b': 4}
    """
    bits = {name: given[0] for name, given in widths.items()}
    whole = lost(bits)
    if whole <= most:
        return Outcome(bits, whole)
    alone = {
        name: {w: (hurts or lost)({**dict.fromkeys(widths, WHOLE), name: w}) for w in given[:-1]} | {given[-1]: 0.0}
        for name, given in widths.items()
    }
    outcome, in_float = Outcome(bits, whole), list[str]()
    while any(bits[n] < given[-1] for n, given in widths.items()) and (floats is None or len(in_float) < floats):
        name, width = max(
            ((n, w) for n, given in widths.items() for w in given if w > bits[n]),
            key=lambda wider: _gain(alone[wider[0]], bits[wider[0]], wider[1], (sizes or {}).get(wider[0], 1)),
        )
        bits = bits | {name: width}
        in_float += [name] if width == WHOLE else []
        outcome = Outcome(bits, lost(bits), tuple(in_float))
        if outcome.lost <= most:
            break
    return outcome


def _gain(hurt: Mapping[int, float], before: int, after: int, size: int) -> float:
    """Return how much less a layer hurts with more bits, for each bit that this adds to the file."""
    less = np.float64(hurt[before]) - hurt[after] if np.isfinite(hurt[before]) else np.float64(np.finfo(float).max)
    return float(less / (size * (after - before)))


def put_back(layers: Sequence[str], lost: Callable[[frozenset[str]], float], most: float) -> Outcome:
    """Put layers back into float, the one that hurts most first, until no more than ``most`` is lost.

    At most half of the layers go back: beyond that little is left of what quantization is for.

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
    >>> outcome = put_back(list(hurts), lambda kept: sum(hurts[n] for n in hurts if n not in kept), 0.05)
    >>> outcome.in_float, outcome.lost
    (('b',), 0.03)
    """

    def at(bits: Bits) -> float:
        return lost(frozenset(name for name, width in bits.items() if width == WHOLE))

    return allot(dict.fromkeys(layers, (8, WHOLE)), at, most, floats=len(layers) // 2)


def divergence(before: Outputs, after: Outputs) -> float:
    """Return how far answers moved, also where none of them flipped.

    Of probabilities ``[rows, classes]`` the mean Kullback-Leibler divergence, in nats; of numbers ``[rows, 1]``
    the loss of :func:`trimtab.agreement.loss`. An answer that is not finite is infinitely far.

    Examples
    --------
    >>> before = np.array([[0.75, 0.25]], np.float32)
    >>> divergence(before, before), round(divergence(before, before[:, ::-1]), 3)
    (0.0, 0.549)
    """
    if before.shape[1] == 1 or not np.isfinite(after).all():
        return loss(before, after) if before.shape[1] == 1 else float("inf")
    p, q = (np.maximum(values.astype(np.float64), 1e-12) for values in (before, after))
    return float((p * np.log(p / q)).sum(axis=1).mean())


@dataclass(frozen=True)
class Trial:
    """Tells what drafts lose against the model that they are made of, as long as there is time.

    Parameters
    ----------
    name
        Of the technique, for messages.
    model
        The float model.
    rows
        To answer; their labels are not read.
    job
        Whose deadline and threads count.
    """

    name: str
    model: Model
    rows: Rows
    job: Job
    before: Outputs = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", self._answers(self.model))

    def lost(self, draft: Path) -> float:
        """Return the loss of quality of the draft in a folder, as a fraction."""
        return loss(self.before, self._answers(Model.at(draft, ONNX)))

    def diverges(self, draft: Path) -> float:
        """Return how far the answers of the draft in a folder are from the model's."""
        return divergence(self.before, self._answers(Model.at(draft, ONNX)))

    def _answers(self, model: Model) -> Outputs:
        return OnnxRuntime().load(model, self.job.threads).predict(self.rows.inputs)

    def tick(self) -> None:
        """Raise an OutOfTimeError when the job's deadline has passed."""
        if self.job.deadline is not None and time.monotonic() > self.job.deadline:
            raise OutOfTimeError(
                f"{self.name} ran out of time while it looked for sensitive layers; raise optimize.minutes, "
                f"lower {self.name}.rows, or raise {self.name}.max_drop"
            )
