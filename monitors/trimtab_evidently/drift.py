"""Has the data moved? Every column and what they are together, tested against the reference at one promised rate."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from scipy.stats import false_discovery_control

from trimtab.monitor import Answer, Case, Figure, Finding, Sample, Summary
from trimtab_evidently.columns import Columns, cut
from trimtab_evidently.figure import figure
from trimtab_evidently.joint import Ranks, correlations, kernel, separation, strongest, tail
from trimtab_evidently.metrics import judge, moved
from trimtab_evidently.packed import Lens, Sketches, pack_lenses, unpack_lenses
from trimtab_evidently.pair import Family, Pair, Shift, changed, completed, shares_missing, sketched
from trimtab_evidently.preset import Preset, run_preset
from trimtab_evidently.scores import Score, compare, missing
from trimtab_evidently.sketch import Floats, NumberSketch

__all__ = ["Drift", "adjust"]

LARGEST_DISTANCE = 0.8325546111576977  # of Jensen and Shannon: the root of ln 2
PAIRS = 200
FEWEST_JOINT = 100
KERNEL_ROWS = 1000
SURE = 0.9


def adjust(p_values: Mapping[str, float], method: Literal["bh", "holm"] = "holm") -> dict[str, float]:
    """Adjust p-values for their number, so that comparing any with alpha keeps the rate of all at alpha.

    Parameters
    ----------
    method
        ``holm``: whatever the tests have to do with each other; ``bh`` (Benjamini and Hochberg): finds more
        where several columns moved at once.

    Examples
    --------
    >>> adjust({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    >>> adjust({"a": 0.01, "b": 0.04, "c": 0.03}, "bh")
    {'a': 0.03, 'c': 0.04, 'b': 0.04}
    """
    names = sorted(p_values, key=lambda n: p_values[n])
    if not names:
        return {}
    if method == "bh":
        values = false_discovery_control([p_values[n] for n in names])
        return dict(zip(names, values.tolist(), strict=True))
    scaled = (min(1.0, (len(names) - rank) * p_values[n]) for rank, n in enumerate(names))
    return dict(zip(names, itertools.accumulate(scaled, max), strict=True))


@dataclass(frozen=True)
class Drift:
    """Compare every feature, and what the features are together, with the reference.

    Numbers by the Kolmogorov-Smirnov test, a rank test of place and scale, and the Wasserstein distance in
    reference standard deviations, categories by the chi-square test and the Jensen-Shannon distance,
    missing values by their rate, tensors by mean, standard deviation and gradient energy, the champion by
    its confidence (in a regression its predictions). Jointly: the rank correlations of numeric columns,
    trees that try to tell the two samples' rows apart, a kernel test and such trees on the champion's
    embedding, and, where it has one, whether it is unsure of more rows than before, by the entropy of its
    probabilities (Hendrycks and Gimpel 2017): so it is of a class that it never saw.

    A statistic alarms when its adjusted p-value is at most its family's share of alpha *and* its effect
    exceeds both the limit and what chance alone does in 99 of 100 samples of these sizes. The tests are
    the same for every number of rows. Columns are sketched: their scores come from counts by bin with the
    real number of rows; what is joint comes from at most ``rows`` of them.

    Parameters
    ----------
    effect
        Limit for numbers, in standard deviations of the reference.
    category_effect
        Limit for categories and missing rates, a Jensen-Shannon distance (0 to 0.83). 0.07 answers
        to a share that goes from 0.50 to 0.60, or a missing rate from 0 to 0.015.
    correlation_effect
        Limit for the difference of two rank correlations.
    separation
        Limit for how far trees tell the samples apart: the area under their ROC curve above one half.
    joint
        Whether to look at what the columns are together.
    rows
        Most rows of each sample that are looked at together.
    adjustment
        Of p-values in one family: ``bh`` (Benjamini-Hochberg) or ``holm``.
    calibrate
        Whether p-values and chance have a say; without, a statistic alarms when its effect exceeds the
        limit, as in Evidently, whatever the number of rows.
    min_rows
        Fewest rows of a sample, and fewest values of a column, that are judged.
    ignore
        Statistics not to compare (a calendar column always moves).
    exact
        Whether Evidently's ``DataDriftPreset`` judges, untouched, in place of all above but ``ignore`` and
        ``min_rows``: on a draw of the rows (``monitors.rows``), slower by far, at no promised rate of false
        alarms. A window has moved when half of its columns have.

    Notes
    -----
    Where rows come in groups (``data.group``), as many count as there are groups, and one row of each is
    looked at together with others.

    What it does not see: a changed relation to the label (that is the ``performance`` monitor's).
    Seasons count as drift: use a reference of the same season.

    Examples
    --------
    >>> import pandas as pd
    >>> from trimtab.monitor import case_of
    >>> from trimtab.window import Feature, Schema
    >>> rng = np.random.default_rng(0)
    >>> before, now = (pd.DataFrame({"x": rng.normal(at, 1, 500)}) for at in (0, 1))
    >>> schema = Schema.freeze({"x": Feature()}, before)
    >>> case = case_of(Drift(), Sample(schema, before), Sample(schema, now, number=1), 0.05)
    >>> Drift().check(case).reasons[0]
    'x moved: mean -0.02689 to 0.9308, sd 1.014 to 0.938; effect 0.94, limit 0.165; adjusted p 2e-43'
    """

    effect: float = 0.1
    category_effect: float = 0.07
    correlation_effect: float = 0.15
    separation: float = 0.05
    joint: bool = True
    rows: int = 2000
    adjustment: Literal["bh", "holm"] = "bh"
    calibrate: bool = True
    min_rows: int = 100
    ignore: tuple[str, ...] = ()
    exact: bool = False

    name: ClassVar[str] = "evidently.drift"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.effect < float("inf"):
            raise ValueError(f"effect must be 0 or more standard deviations, got {self.effect}")
        if not 0 <= self.category_effect < LARGEST_DISTANCE:
            raise ValueError(f"category_effect must be at least 0 and below 0.83, got {self.category_effect}")
        if not 0 <= self.correlation_effect < 2:
            raise ValueError(f"correlation_effect must be at least 0 and below 2, got {self.correlation_effect}")
        if not 0 <= self.separation < 0.5:
            raise ValueError(f"separation must be at least 0 and below 0.5, got {self.separation}")
        if self.rows < FEWEST_JOINT:
            raise ValueError(f"rows must be at least {FEWEST_JOINT}, got {self.rows}; to leave them out, joint: false")
        if self.adjustment not in ("bh", "holm"):
            raise ValueError(f"adjustment must be bh or holm, got {self.adjustment!r}")
        if self.min_rows < 20:
            raise ValueError(f"min_rows must be at least 20 for the tests to hold, got {self.min_rows}")

    def fit(self, reference: Sample) -> Summary:
        """Cut the lenses of the reference's columns, and sketch them."""
        columns = Columns.of(reference)
        lenses: dict[str, Lens] = {}
        skipped: dict[str, str] = {}
        for name, kind in columns.kinds.items():
            try:
                lenses[name] = cut(kind, columns.values[name])
            except (TypeError, ValueError, OverflowError) as error:  # of values that no lens foresaw
                skipped[name] = f"it cannot be read ({type(error).__name__}) in the rows"
        return {**pack_lenses(lenses), **sketched(columns.values, lenses, skipped).pack()}

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        """Sketch a batch's features."""
        columns = Columns.raw(batch)
        return sketched(columns.values, unpack_lenses(fitted), columns.skipped).pack()

    def add(self, fitted: Summary, one: Summary, other: Summary) -> Summary:
        """Add two batches' sketches."""
        lenses = unpack_lenses(fitted)
        return (Sketches.unpack(one, lenses) + Sketches.unpack(other, lenses)).pack()

    def check(self, case: Case) -> Finding:
        """Compare a window with the reference; alarm on quiet data with probability ``case.alpha`` at most.

        Raises
        ------
        SettingsError
            When ``ignore`` names no statistic.
        """
        reference, current = case.reference, case.current
        for sample, words in ((reference, "the reference"), (current, f"window {current.number}")):
            if len(sample) < self.min_rows:
                reason = f"needs {self.min_rows} rows (setting min_rows) in {words}, which has {len(sample)}"
                return Finding(self.name, current.number, Answer.UNKNOWN, (reason,))
        if self.exact:
            return self._exactly(case)
        pair = Pair.of(case, self.ignore, self.min_rows)
        found = [*self._columns(pair), *(self._together(pair) if self.joint else ())]
        kept = [s for s in _named_apart(found) if not {s.name, s.family} & {*self.ignore}]
        shifts = self._adjusted(kept)
        families = max(1, len({s.family for s in shifts}))
        alpha = case.alpha / families if self.calibrate else 1.0
        asked = [s for s in shifts if s.family != "correlations" or s.p <= alpha]  # else hundreds that cannot alarm
        effects = {s.name: (s.score.effect, s.p) for s in asked}
        verdicts = moved(judge(effects, {s.name: s.limit for s in asked}, alpha))
        alarms = [s for s in shifts if s.name in verdicts]
        answer = Answer.MOVED if alarms else Answer.FINE if shifts else Answer.UNKNOWN
        reasons = [*(s.reason for s in alarms), *(f"{n} was not judged: {why}" for n, why in pair.skipped.items())]
        if not shifts:
            reasons.append("no column of the statistics can be compared")
        p = min((families * s.p for s in alarms), default=None) if self.calibrate else None
        told, names = _told(shifts, verdicts), tuple(s.name for s in alarms)
        scores = {s.name: s.score.effect for s in told} | {f"{s.name}.p": s.p for s in told}
        limits = {s.name: s.limit for s in told} | {f"{s.name}.p": alpha for s in told}
        return Finding(self.name, current.number, answer, tuple(reasons), scores, alarms=names, p=p, limits=limits)

    def _exactly(self, case: Case) -> Finding:
        """Say what Evidently's preset says."""
        said = self._preset(case)
        reasons = [f"{name} drifted: {said.scores[name]:.4g}, threshold {said.limits[name]:g}" for name in said.drifted]
        answer = Answer.MOVED if said.of_dataset else Answer.FINE if said.scores else Answer.UNKNOWN
        alarms = said.drifted if said.of_dataset else ()
        told = tuple(reasons) if said.of_dataset else ()
        return Finding(self.name, case.current.number, answer, told, said.scores, alarms=alarms, limits=said.limits)

    def _preset(self, case: Case) -> Preset:
        before, now = (Columns.of(s).without(self.ignore) for s in (case.reference, case.current))
        return run_preset(before, now)

    def full_report(self, case: Case, path: Path) -> None:
        """Write Evidently's own report on the drawn rows to ``path`` (HTML)."""
        self._preset(case).save(path)

    def _adjusted(self, shifts: Sequence[Shift]) -> list[Shift]:
        """Adjust p-values by family, and put the largest change in terms of its limit first."""
        adjusted: dict[str, float] = {}
        for family in dict.fromkeys(s.family for s in shifts):
            adjusted |= adjust({s.name: s.score.p for s in shifts if s.family == family}, self.adjustment)
        done = [dataclasses.replace(s, p=adjusted[s.name]) for s in shifts]
        return sorted(done, key=lambda s: (-s.score.effect / (s.limit or 1.0), s.name))

    def keep(self, case: Case) -> Summary:
        """Keep the sketches of the window's columns, also of what the champion and its tensors' statistics say."""
        lenses = unpack_lenses(case.fitted)
        return completed(Sketches.unpack(case.seen, lenses), Columns.of(case.current), lenses).pack()

    def figures(self, fitted: Summary, kept: Summary) -> Sequence[Figure]:
        """Draw every column that both sides have."""
        lenses = unpack_lenses(fitted)
        before, now = (Sketches.unpack(side, lenses).by_name for side in (fitted, kept))
        return [figure(name, sketch, now[name]) for name, sketch in before.items() if name in now]

    def _columns(self, pair: Pair) -> Iterator[Shift]:
        """Yield what each column shows by itself."""
        worth = pair.worth
        for name, (before, now) in pair.sketches.items():
            if name not in pair.skipped:
                least = self.effect if isinstance(before, NumberSketch) else self.category_effect
                score = compare(before, now, worth)
                yield Shift(name, "columns", score, self._limit(least, score), changed(before, now))
            if before.n < before.rows or now.n < now.rows:
                score, words = missing(before, now, worth), shares_missing(before, now)
                limit = self._limit(self.category_effect, score)
                yield Shift(f"{name}.missing", "columns", score, limit, words)

    def _together(self, pair: Pair) -> Iterator[Shift]:
        """Yield what no column shows by itself."""
        coded = pair.coded(self.rows)
        if pair.names and min(len(side[pair.names[0]]) for side in coded) >= self.min_rows:  # else too few groups
            yield from self._correlations(pair, coded)
            if len(pair.names) > 1:
                yield self._separated("rows", *(np.stack(list(side.values()), axis=1) for side in coded))
        embedding = pair.embedding(self.rows)
        if embedding and min(map(len, embedding)) >= self.min_rows:
            yield self._separated("embedding", *embedding)
            if self.calibrate:  # how far apart is too far only chance can tell
                yield self._discrepancy(embedding)
                yield from self._unsure(pair.entropy(self.rows))

    def _discrepancy(self, embedding: Sequence[Floats]) -> Shift:
        draw = np.random.default_rng(0)
        before, now = (e[draw.permutation(len(e))[:KERNEL_ROWS]] for e in embedding)
        score = kernel(before, now)
        return Shift("embedding.kernel", "embedding", score, self._limit(0.0, score), "kernel discrepancy")

    def _unsure(self, entropies: Sequence[Floats]) -> Iterator[Shift]:
        """Yield whether the champion is unsure of more rows: of most that belong to a class that it never saw."""
        if entropies and min(map(len, entropies)) >= self.min_rows:
            before, now = entropies
            share = float((now > np.quantile(before, SURE)).mean())
            words = f"of {share:.0%} of its rows the champion is less sure than of {SURE:.0%} of the reference's"
            score = tail(before, now)
            yield Shift("entropy", "entropy", score, self._limit(0.0, score), words)

    def _correlations(self, pair: Pair, coded: Sequence[Mapping[str, Floats]]) -> Iterator[Shift]:
        names = pair.numbers
        before, now = ([Ranks.of(side[n]) for n in names] for side in coded)
        pairs = list(itertools.combinations(range(len(names)), 2))
        if len(pairs) > PAIRS:  # chosen on other rows than are compared, on which they are not the strongest by chance
            pairs = strongest([Ranks.of(coded[0][n][::2]) for n in names], PAIRS)
            before = [Ranks.of(coded[0][n][1::2]) for n in names]
        for (i, j), found in correlations(before, now, pairs).items():
            limit = self._limit(self.correlation_effect, found.score)
            words = f"rank correlation {found.before:.2f} to {found.now:.2f}"
            yield Shift(f"{names[i]} ~ {names[j]}", "correlations", found.score, limit, words)

    def _separated(self, family: Family, before: Floats, now: Floats) -> Shift:
        score = separation(before, now)
        words = f"trees tell its rows from the reference's, area under the ROC curve {0.5 + score.effect:.3f}"
        return Shift(family, family, score, self._limit(self.separation, score), words)

    def _limit(self, setting: float, score: Score) -> float:
        return max(setting, score.chance) if self.calibrate else setting


def _named_apart(shifts: Iterable[Shift]) -> list[Shift]:
    """Give each statistic a name of its own: a column of the user's may be called as one of ours is."""
    found: dict[str, Shift] = {}
    for shift in shifts:
        name = shift.name
        while name in found:
            name = f"derived.{name}"
        found[name] = dataclasses.replace(shift, name=name)
    return list(found.values())


def _told(shifts: Sequence[Shift], alarms: Collection[str]) -> list[Shift]:
    """Return what a finding tells of; of the many correlations those that alarm, and the largest change."""
    kept = [s for s in shifts if s.family != "correlations" or s.name in alarms]
    first = next((s for s in shifts if s.family == "correlations"), None)
    return kept if first is None or first in kept else [*kept, first]
