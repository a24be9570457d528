"""The same monitor by segment: what happens to a few rows is not lost among the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trimtab.data import segments_of
from trimtab.monitor import Answer, Case, Figure, Finding, Monitor, Sample, Summary

__all__ = ["BySegment"]

FEWEST_ROWS = 50
"""Rows of a segment in the reference, from which on it is looked at."""
MOST = 20
"""Segments that are looked at for each column, the most frequent."""
MOST_SCORES = 12
"""Scores that a segment's finding keeps where none alarmed; of more only those that did."""
WHOLE = ""


@dataclass(frozen=True)
class BySegment:
    """A monitor that looks at all rows, and at those of each segment.

    Half of the rate of false alarms is for all rows together, half is divided among the segments. A
    segment is a value of a column in the reference; its most frequent ones are looked at. What a segment
    says carries its name: ``price [region=north]``.

    Parameters
    ----------
    monitor
        That looks.
    columns
        By whose values rows are divided.

    Examples
    --------
    >>> import pandas as pd
    >>> from trimtab.monitor import Always, case_of
    >>> from trimtab.window import Schema
    >>> rows = Sample(Schema(columns=()), pd.DataFrame({"region": ["north"] * 60 + ["south"] * 60}))
    >>> both = BySegment(Always(), ("region",))
    >>> for reason in both.check(case_of(both, rows, rows, 0.05)).reasons:
    ...     print(reason)
    the monitor 'always' says worse
    region=north: the monitor 'always' says worse
    region=south: the monitor 'always' says worse
    """

    monitor: Monitor
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """The monitor's."""
        return self.monitor.name

    @property
    def guards(self) -> bool:
        """Whether the monitor does."""
        return self.monitor.guards

    @property
    def needs_labels(self) -> bool:
        """Whether the monitor does."""
        return self.monitor.needs_labels

    @property
    def statistical(self) -> bool:
        """Whether the monitor is."""
        return self.monitor.statistical

    def fit(self, reference: Sample) -> Summary:
        """Fit the monitor to all rows, and to those of each segment.

        Raises
        ------
        DataError
            When a column is not in the rows.
        """
        names = self._frequent(reference)
        fits = {name: self.monitor.fit(part) for name, part in self._parts(reference, names)}
        return {"segments": np.array(names, dtype=np.str_), **_packed(fits, names)}

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        """Keep what the monitor keeps of all rows of a batch, and of each segment's."""
        names = fitted["segments"].tolist()
        parts = self._parts(batch, names)
        return _packed({n: self.monitor.summarize(_of(fitted, names, n), part) for n, part in parts}, names)

    def add(self, fitted: Summary, one: Summary, other: Summary) -> Summary:
        """Add segment by segment."""
        names = fitted["segments"].tolist()
        both = {
            n: self.monitor.add(_of(fitted, names, n), _of(one, names, n), _of(other, names, n))
            for n in (WHOLE, *names)
        }
        return _packed(both, names)

    def check(self, case: Case) -> Finding:
        """Judge all rows, and each segment; alarm on quiet data with probability ``case.alpha`` at most."""
        names = case.fitted["segments"].tolist()
        found: dict[str, Finding] = {}
        references, held_back = (dict(self._parts(s, names)) for s in (case.reference, case.labelled))
        for name, current in self._parts(case.current, names):
            part = Case(
                fitted=_of(case.fitted, names, name),
                seen=_of(case.seen, names, name),
                reference=references[name],
                current=current,
                alpha=case.alpha / 2 / (len(names) if name else 1),
                past=tuple(_part(f, name) for f in case.past),
                metric=case.metric,
                held_back=held_back[name],
            )
            found[name] = self.monitor.check(part)
        return _joined(found, len(names))

    def keep(self, case: Case) -> Summary:
        """Store what the monitor stores of all rows."""
        names = case.fitted["segments"].tolist()
        fitted, seen = (_of(summary, names, WHOLE) for summary in (case.fitted, case.seen))
        return self.monitor.keep(dataclasses.replace(case, fitted=fitted, seen=seen))

    def figures(self, fitted: Summary, kept: Summary) -> Sequence[Figure]:
        """Draw what the monitor draws of all rows."""
        return self.monitor.figures(_of(fitted, fitted["segments"].tolist(), WHOLE), kept)

    def _frequent(self, reference: Sample) -> list[str]:
        """Return the segments that are looked at, the most frequent of each column first."""
        found: list[str] = []
        for column in self._divided(reference).T:
            names, counts = np.unique(column, return_counts=True)
            ordered = [str(names[i]) for i in np.argsort(-counts, kind="stable") if counts[i] >= FEWEST_ROWS]
            found += ordered[:MOST]
        return found

    def _divided(self, sample: Sample) -> npt.NDArray[np.str_]:
        divided = segments_of(sample.frame, self.columns)
        return np.zeros((len(sample), 0), dtype=np.str_) if divided is None else divided

    def _parts(self, sample: Sample, names: list[str]) -> Iterator[tuple[str, Sample]]:
        yield WHOLE, sample
        absent = [c for c in self.columns if c not in sample.frame]  # a broken window, of which the rest is judged
        frame = sample.frame.assign(**dict.fromkeys(absent)) if absent else sample.frame
        divided = self._divided(dataclasses.replace(sample, frame=frame))
        for name in names:
            yield name, sample.take((divided == name).any(axis=1))


def _packed(by_segment: Mapping[str, Summary], names: list[str]) -> Summary:
    """Put summaries together, each array under the number of its segment: 0 for all rows."""
    places = {name: place for place, name in enumerate((WHOLE, *names))}
    return {f"{places[n]}/{key}": array for n, summary in by_segment.items() for key, array in summary.items()}


def _of(packed: Summary, names: list[str], name: str) -> Summary:
    """Return one segment's summary."""
    head = f"{(WHOLE, *names).index(name)}/"
    return {key.removeprefix(head): array for key, array in packed.items() if key.startswith(head)}


def _named(key: str, segment: str) -> str:
    return f"{key} [{segment}]" if segment else key


def _part(finding: Finding, segment: str) -> Finding:
    """Return what an earlier finding kept of one segment."""
    tail = f" [{segment}]"
    kept = {
        key.removesuffix(tail): values
        for key, values in finding.kept.items()
        if (key.endswith(tail) if segment else not key.endswith("]"))
    }
    return dataclasses.replace(finding, kept=kept)


def _joined(found: Mapping[str, Finding], segments: int) -> Finding:
    """Put the findings of all rows and of each segment together: the worst answer, every reason by its segment."""
    whole = found[WHOLE]
    spoke = {name: f for name, f in found.items() if f.answer.alarms or f.answer is Answer.BROKEN or not name}
    worst = min((f.answer for f in spoke.values()), key=[*Answer].index)
    answer = worst if worst.alarms or worst is Answer.BROKEN else whole.answer
    scores: dict[str, float] = {}
    for name, f in found.items():
        kept = f.scores if not name or len(f.scores) <= MOST_SCORES else _alarmed(f)
        scores |= {_named(key, name): value for key, value in kept.items()}
    alarms = [_named(key, name) for name, f in spoke.items() for key in f.alarms]
    p_values = [f.p * 2 * (segments if name else 1) for name, f in spoke.items() if f.p is not None]
    return dataclasses.replace(
        whole,
        answer=answer,
        reasons=tuple(f"{name}: {r}" if name else r for name, f in spoke.items() for r in f.reasons),
        scores=scores,
        kept={_named(key, name): values for name, f in found.items() for key, values in f.kept.items()},
        limits={_named(key, name): limit for name, f in found.items() for key, limit in f.limits.items()},
        alarms=tuple(alarms),
        p=min(1.0, *p_values, 1.0) if p_values else None,
    )


def _alarmed(finding: Finding) -> dict[str, float]:
    names = {*(finding.alarms), *(f"{name}.p" for name in finding.alarms)}
    return {key: value for key, value in finding.scores.items() if key in names}
