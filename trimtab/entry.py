"""One entry of a round's list: what became of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.benchmark import Scores
from trimtab.candidate import Candidate
from trimtab.gate import Verdict
from trimtab.recipe import Recipe

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """One candidate of a round: what became of its recipe.

    Parameters
    ----------
    recipe
        What was asked for.
    candidate
        What was built, or None.
    error
        Why it was not built, or None.
    scores, verdict
        None where it was not built or measured.
    """

    recipe: Recipe
    candidate: Candidate | None = None
    error: str | None = None
    scores: Scores | None = None
    verdict: Verdict | None = None

    @property
    def outcome(self) -> str:
        """In one word."""
        if self.error is not None:
            return "failed"
        return "first" if self.verdict is None else self.verdict.outcome.value
