"""One entry of a round's list: what became of a recipe, on each target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.benchmark import Scores
from trimtab.candidate import Candidate
from trimtab.gate import Verdict
from trimtab.intervals import Interval
from trimtab.recipe import Recipe
from trimtab.runtime import CHAMPION, Setup, Target

__all__ = ["Entry", "Glance", "Trial"]


@dataclass(frozen=True)
class Glance:
    """A first, quick look at a candidate on one target, by which it is compared with others of its round.

    Parameters
    ----------
    quality, rows
        The metric on the search rows, and their number.
    p50_ms
        Milliseconds of one call.
    speedup
        Champion's time over this model's, timed as a pair.
    size_bytes
        On disk, of what serves.
    """

    quality: float
    rows: int
    p50_ms: float
    speedup: Interval
    size_bytes: int

    def is_behind(self, other: Glance, utility: float, others: float) -> bool:
        """Tell whether another candidate is as good in everything, as far as a look can tell, and better in something.

        Parameters
        ----------
        utility, others
            Quality of this one and of the other, on a scale on which more is better.
        """
        slower, faster = other.speedup.high < self.speedup.low, other.speedup.low > self.speedup.high
        if slower or others < utility or other.size_bytes > self.size_bytes:
            return False
        return faster or others > utility or other.size_bytes < self.size_bytes


@dataclass(frozen=True)
class Trial:
    """A candidate on one target, on the runtime that serves it best there.

    Parameters
    ----------
    setup
        The runtime.
    glance
        The quick look.
    scores, verdict
        None where it was not judged.
    why
        Why it was not, or None.
    """

    setup: Setup
    glance: Glance
    scores: Scores | None = None
    verdict: Verdict | None = None
    why: str | None = None

    def breaks(self, target: Target) -> str | None:
        """Say which of the target's constraints it breaks at a glance, or None."""
        size, bound = self.glance.size_bytes / 1e6, target.max_size_mb
        if bound is not None and size > bound:
            return f"size {size:.3g} MB, at most {bound:g} allowed (max_size_mb)"
        if target.max_p50_ms is not None and self.glance.p50_ms > target.max_p50_ms:
            return f"p50 {self.glance.p50_ms:.3g} ms, at most {target.max_p50_ms:g} allowed (max_p50_ms)"
        return None


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
        Why it could not be built or loaded, or None.
    note
        Why it was not built to its end, or None.
    trials
        What it showed on each target, by the alias of the target's champion.
    failures
        Why it could not be looked at on a target, by the same.
    """

    recipe: Recipe
    candidate: Candidate | None = None
    error: str | None = None
    note: str | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def outcome(self, alias: str = CHAMPION) -> str:
        """Say in one word what became of it on one target."""
        trial = self.trials.get(alias)
        if self.error is not None or alias in self.failures:
            return "failed"
        if self.note is not None or trial is None:
            return "stopped"
        if trial.verdict is not None:
            return trial.verdict.outcome.value
        return "behind" if trial.why is not None else "first"

    def reasons(self, alias: str = CHAMPION) -> tuple[str, ...]:
        """Say why, in words, the decisive ones first."""
        trial = self.trials.get(alias)
        said = [r for r in (self.error, self.note, trial.why if trial is not None else None) if r is not None]
        if alias in self.failures:
            said.append(self.failures[alias])
        elif trial is None and self.candidate is not None:
            said.append(f"not looked at: no runtime of this target takes the format {self.candidate.model.format}")
        return (*said, *(trial.verdict.reasons if trial is not None and trial.verdict is not None else ()))

    def losses(self, aliases: Sequence[str], larger_is_better: bool) -> tuple[float, ...] | None:
        """Return what a search makes small: loss of quality, latency on each target, size; None without a look.

        Latency is the logarithm of the time beside the champion's, which is timed as a pair: milliseconds
        of different moments on a busy machine cannot be compared. On a target that does not take it a
        candidate counts as :data:`ABSENT` times as slow as the champion. Without rows to tell its quality
        by, speed and size alone count.
        """
        looks = {a: self.trials[a].glance for a in aliases if a in self.trials}
        if not looks or not all(math.isfinite(g.quality) or not g.rows for g in looks.values()):
            return None
        quality = sum(g.quality if g.rows else 0.0 for g in looks.values()) / len(looks)
        speedups = [looks[a].speedup.value if a in looks else 1 / ABSENT for a in aliases]
        if not all(math.isfinite(s) and s > 0 for s in speedups):
            return None
        size = next(iter(looks.values())).size_bytes
        loss = -quality if larger_is_better else quality
        return (loss, *(-math.log(s) for s in speedups), math.log(max(1, size)))


ABSENT = 10.0
"""How many times as slow as the champion a candidate counts on a target that does not take it."""
