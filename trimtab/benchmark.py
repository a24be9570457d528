"""The Scores of one model on one target: quality row by row, speed beside the champion, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trimtab.intervals import Interval, proportion
from trimtab.timing import Latency

__all__ = ["Scores"]


@dataclass(frozen=True)
class Scores:
    """What a benchmark says of one model.

    Parameters
    ----------
    judged
        1 where the prediction was right, else 0, on the judge rows (float64 ``[rows]``).
    groups
        Group of each judge row (uint64 ``[rows]``): rows of one group are not independent.
    latency
        Beside the champion.
    size_bytes
        On disk, of what serves.
    searched, search_rows
        Share of right predictions on the search rows, and their number.
    golden
        As ``judged``, on the golden rows; empty where the project names none.
    parameters
        Number of weights, where known.
    """

    judged: npt.NDArray[np.float64]
    groups: npt.NDArray[np.uint64]
    latency: Latency
    size_bytes: int
    searched: float
    search_rows: int = 0
    golden: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    golden_groups: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    parameters: int | None = None

    @property
    def ranking(self) -> tuple[float, int]:
        """Share of right predictions over search and judge rows together, and their number.

        Candidates are ranked by it, after the gate: the gate's intervals hold for all candidates of a
        round at once, so that ranking by the same rows takes nothing from them.
        """
        rows = self.search_rows + len(self.judged)
        return (self.searched * self.search_rows + float(self.judged.sum())) / max(1, rows), rows

    def quality(self, confidence: float) -> Interval:
        """Return the share of right predictions on the judge rows with its Wilson interval."""
        return proportion(self.judged, self.groups, confidence)
