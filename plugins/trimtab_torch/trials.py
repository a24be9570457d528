"""The last step of a search for an architecture: what promises most is trained for a short time, and compared."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import Job
from trimtab_torch.evidence import Evidence
from trimtab_torch.recovery import recover
from trimtab_torch.spec import FloatModel

__all__ = ["Tried", "shortlist", "spread"]

Item = TypeVar("Item")


def spread(ranked: Sequence[Item], kind: Callable[[Item], Hashable], count: int) -> list[Item]:
    """Return the best of each kind, then the second best of each, up to ``count``: for scores of one kind compare best.

    Examples
    --------
    >>> spread(["a9", "a8", "b7", "a6", "b5"], lambda word: word[0], 3)
    ['a9', 'b7', 'a8']
    """
    places: dict[Hashable, int] = {}
    turns: list[tuple[int, int]] = []
    for at, item in enumerate(ranked):
        turn = places.get(kind(item), 0)
        places[kind(item)] = turn + 1
        turns.append((turn, at))
    return [ranked[at] for _, at in sorted(turns)[:count]]


@dataclass(frozen=True)
class Tried:
    """A finalist after its short training.

    Parameters
    ----------
    at
        Its place among the finalists, counted from 0.
    model
        It, trained.
    loss
        Mean loss on the rows that finalists are compared on.
    """

    at: int
    model: FloatModel
    loss: float


def shortlist(
    finalists: Sequence[Callable[[], FloatModel]], epochs: int, evidence: Evidence, data: Data, job: Job, where: str
) -> list[Tried]:
    """Train each finalist for a few epochs (from the round's teacher where there is one), the best first.

    Parameters
    ----------
    finalists
        Make them; the one that promises most is first, and wins where nothing is trained.
    epochs
        Of each; with 0, or a single finalist and none to compare it with, the order stays.
    evidence
        Rows that no weight was fitted to.

    Raises
    ------
    PluginError
        When the training of every finalist diverges; one that does alone is out.
    """
    tried: list[Tried] = []
    for at, make in enumerate(finalists):
        model = make()
        try:
            if epochs:
                recover(model, data, job, epochs, where)
        except PluginError:
            if not tried and at == len(finalists) - 1:
                raise
            continue
        tried.append(Tried(at, model, evidence.loss(model.network)))
    return sorted(tried, key=lambda t: (t.loss, t.at)) if epochs else tried
