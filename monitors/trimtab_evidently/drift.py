"""Has the data moved? Every statistic is tested against the reference; many tests, one promised alarm rate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from evidently import Report
from evidently.metrics import ValueDrift

from trimtab.errors import SettingsError, nearest
from trimtab.monitor import Answer, Finding, Sample
from trimtab_evidently.metrics import datasets, measure
from trimtab_evidently.statistics import Table, tabulate

__all__ = ["Drift", "Shift", "adjust"]

log = logging.getLogger(__name__)

LARGEST_DISTANCE = 0.8325546111576977  # of Jensen and Shannon: the root of ln 2


def adjust(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for their number, after Holm: comparing any with alpha keeps the rate of all at alpha.

    Examples
    --------
    >>> adjust({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


@dataclass(frozen=True)
class Shift:
    """How one column differs from the reference: its effect, the effect's limit and the adjusted p-value."""

    column: str
    effect: float
    limit: float
    p: float

    def alarms(self, alpha: float) -> bool:
        """Whether the change is both beyond chance and large enough to matter."""
        return self.p <= alpha and self.effect > self.limit


@dataclass(frozen=True)
class Drift:
    """Compare the distribution of every feature, and of what the champion makes of them, with the reference.

    Numbers by the Kolmogorov-Smirnov test and the Wasserstein distance in reference standard
    deviations, categories by the chi-square test and the Jensen-Shannon distance, tensors by mean,
    standard deviation and gradient energy, the champion by its confidence (in a regression its
    predictions) and the principal components of its embedding, missing values by their rate. A column
    alarms when its p-value, adjusted after Holm, is at most alpha *and* its effect exceeds the limit.
    The tests are the same for every number of rows.

    Parameters
    ----------
    effect
        Limit for numbers, in standard deviations of the reference.
    category_effect
        Limit for categories and missing rates, a Jensen-Shannon distance (0 to 0.83). 0.1 answers
        to a share that goes from 0.50 to 0.64, or a missing rate from 0 to 0.03.
    embedding
        Whether to look at the champion's embedding.
    embedding_components
        Most principal components of it.
    min_rows
        Fewest rows of a sample, and fewest values of a column, that are judged.
    ignore
        Columns of the statistics not to compare (a calendar column always moves).

    Notes
    -----
    What it does not see: a changed relation between features whose own distributions stay, unless
    the champion's confidence or embedding shows it; and a changed relation to the label (that is
    the ``performance`` monitor's). Seasons count as drift: use a reference of the same season.

    Examples
    --------
    >>> import numpy as np
    >>> from trimtab.window import Feature, Schema
    >>> rng = np.random.default_rng(0)
    >>> before, now = (pd.DataFrame({"x": rng.normal(at, 1, 500)}) for at in (0, 1))
    >>> schema = Schema.freeze({"x": Feature()}, before)
    >>> Drift().check(Sample(schema, before), Sample(schema, now, number=1), 0.05).reasons
    ('x moved: mean -0.02689 to 0.9308, sd 1.015 to 0.9389; effect 0.94 sd, limit 0.3; adjusted p 3e-36',)
    """

    effect: float = 0.3
    category_effect: float = 0.1
    embedding: bool = True
    embedding_components: int = 8
    min_rows: int = 100
    ignore: tuple[str, ...] = ()

    name: ClassVar[str] = "evidently.drift"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.effect < float("inf"):
            raise ValueError(f"effect must be 0 or more standard deviations, got {self.effect}")
        if not 0 <= self.category_effect < LARGEST_DISTANCE:
            raise ValueError(f"category_effect must be at least 0 and below 0.83, got {self.category_effect}")
        if self.embedding_components < 1:
            raise ValueError(
                f"embedding_components must be at least 1, got {self.embedding_components}; "
                "to leave the embedding out, set embedding: false"
            )
        if self.min_rows < 20:
            raise ValueError(f"min_rows must be at least 20 for the tests to hold, got {self.min_rows}")

    def check(self, reference: Sample, current: Sample, alpha: float) -> Finding:
        """Compare ``current`` with ``reference``; alarm on quiet data with probability ``alpha`` at most.

        Raises
        ------
        SettingsError
            When ``ignore`` names no column of the statistics.
        """
        for sample, words in ((reference, "the reference"), (current, f"window {current.number}")):
            if len(sample) < self.min_rows:
                reason = f"needs {self.min_rows} rows (setting min_rows) in {words}, which has {len(sample)}"
                return Finding(self.name, current.number, Answer.UNKNOWN, (reason,))
        table = self._table(reference, current)
        shifts = self._shifts(table)
        moved = [s for s in shifts if s.alarms(alpha)]
        reasons = (*(_explain(s, table) for s in moved), *_not_judged(table))
        answer = Answer.MOVED if moved else Answer.FINE if shifts else Answer.UNKNOWN
        if not shifts:
            reasons = (*reasons, "no column of the statistics can be compared")
        return Finding(self.name, current.number, answer, reasons, _scores(shifts))

    def report(self, reference: Sample, current: Sample, path: Path) -> bool:
        """Write Evidently's page on the table of statistics, one figure a column; False when it cannot."""
        try:
            table = self._table(reference, current)
            metrics = [
                ValueDrift(column=c, method=m, threshold=t)
                for c, (m, t) in ((c, self._method(kind)) for c, kind in table.kinds.items())
            ]
            if not metrics:
                return False
            before, now = datasets(table)
            path.parent.mkdir(parents=True, exist_ok=True)
            Report(metrics, include_tests=False).run(now, before).save_html(str(path))
        except Exception:  # a page that explains is never worth a window: Evidently's renderer may raise anything
            log.warning("no report on window %d: Evidently could not draw it", current.number, exc_info=True)
            return False
        return True

    def _method(self, kind: str) -> tuple[str, float]:
        return ("wasserstein", self.effect) if kind == "numeric" else ("jensenshannon", self.category_effect)

    def _table(self, reference: Sample, current: Sample) -> Table:
        table = tabulate(reference, current, self.embedding_components if self.embedding else 0)
        known = {*table.kinds, *table.skipped, *current.schema.names}
        for name in self.ignore:
            if name not in known and not name.endswith(".missing"):
                have = ", ".join(table.kinds)
                raise SettingsError(f"ignore names no statistic {name!r}; there are {have}.{nearest(name, known)}")
        return table.without(self.ignore).with_values(self.min_rows)

    def _shifts(self, table: Table) -> list[Shift]:
        """Return every column's shift, the largest in terms of its limit first."""
        measured = measure(table) if table.kinds else {}
        adjusted = adjust({name: p for name, (p, _) in measured.items()})
        shifts = [Shift(n, e, self._method(table.kinds[n])[1], adjusted[n]) for n, (_, e) in measured.items()]
        return sorted(shifts, key=lambda s: (-s.effect / (s.limit or 1.0), s.column))


def _scores(shifts: list[Shift]) -> dict[str, float]:
    return {s.column: s.effect for s in shifts} | {f"{s.column}.p": s.p for s in shifts}


def _not_judged(table: Table) -> tuple[str, ...]:
    return tuple(f"{name} was not judged: {reason}" for name, reason in table.skipped.items())


def _explain(shift: Shift, table: Table) -> str:
    before, now = table.reference[shift.column].dropna(), table.current[shift.column].dropna()
    if table.kinds[shift.column] == "numeric":
        what = f"mean {_mean(before)} to {_mean(now)}, sd {before.std():.4g} to {now.std():.4g}"
        unit = " sd"
    else:
        level, old, new = _most_moved(before, now)
        what = f"share of {level!r} {old:.3g} to {new:.3g}" + (", never seen in the reference" if old == 0 else "")
        unit = " Jensen-Shannon"
    return (
        f"{shift.column} moved: {what}; effect {shift.effect:.2f}{unit}, limit {shift.limit:g}; "
        f"adjusted p {shift.p:.0e}"
    )


def _mean(values: pd.Series[Any]) -> str:
    """Word the mean; rounding noise around 0 reads 0."""
    mean = float(values.mean())
    return "0" if abs(mean) < 1e-9 * float(values.std()) else f"{mean:.4g}"


def _most_moved(before: pd.Series[Any], now: pd.Series[Any]) -> tuple[str, float, float]:
    """Return the level whose share moved most (of two, the one that grew) and both shares."""
    old, new = before.value_counts(normalize=True), now.value_counts(normalize=True)
    change = {level: new.get(level, 0.0) - old.get(level, 0.0) for level in {*old.index, *new.index}}
    level = max(change, key=lambda name: (round(abs(change[name]), 9), change[name], name))
    return level, float(old.get(level, 0.0)), float(new.get(level, 0.0))
