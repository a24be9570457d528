"""The last step of a search for an architecture: what promises most is trained for a short time, and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.data import Data
from trimtab.technique import Job
from trimtab_torch.evidence import Evidence
from trimtab_torch.recovery import recover
from trimtab_torch.spec import FloatModel

__all__ = ["Tried", "shortlist"]


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
    """
    tried: list[Tried] = []
    for at, make in enumerate(finalists):
        model = make()
        if epochs:
            recover(model, data, job, epochs, where)
        tried.append(Tried(at, model, evidence.loss(model.network)))
    return sorted(tried, key=lambda t: (t.loss, t.at)) if epochs else tried
