"""What a monitor sees, and the Finding that it answers with: broken, moved, worse, fine or unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.metric import Accuracy, Metric, Rmse
from trimtab.window import Arrays, Labels, Schema

__all__ = ["Answer", "Case", "Figure", "Finding", "Monitor", "OnDraw", "Sample", "Summary", "case_of"]


class Answer(StrEnum):
    """The possible answers of a monitor, worst first."""

    BROKEN = "broken"
    WORSE = "worse"
    SLOWER = "slower"
    MOVED = "moved"
    UNKNOWN = "unknown"
    FINE = "fine"

    @property
    def alarms(self) -> bool:
        """Whether it is one that may start a round."""
        return self in (Answer.WORSE, Answer.SLOWER, Answer.MOVED)


@dataclass(frozen=True)
class Finding:
    """What one monitor says about one window.

    Parameters
    ----------
    monitor
        Its name.
    window
        Number of the window that it looked at.
    answer
        One of :class:`Answer`.
    reasons
        In words and numbers, each naming the column or metric, its value and the limit.
    scores
        Every score by column (or metric), also those that did not alarm; the p-value of score ``x`` is ``x.p``.
    kept
        Numbers that the monitor is shown again, with its later windows (``Case.past``).
    alarms
        Names of the statistics that alarmed, where the monitor has some to name.
    p
        The smallest rate of alarms on quiet windows at which it would have alarmed, where that is known.
    alpha
        Rate of alarms on quiet windows at which it was asked, where it is a statistical monitor.
    estimated
        Whether it is an estimate made without labels.
    labelled
        Whether it was made with labels: what it says is believed before what others guess.
    about
        Of a broken window, what is at fault: names of columns. When the same is at fault in window after
        window, a person is asked for.
    limits
        By the same names, what a score must exceed to alarm, and what a p-value must not.

    """

    monitor: str
    window: int
    answer: Answer
    reasons: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, Sequence[float]] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    p: float | None = None
    alpha: float | None = None
    estimated: bool = False
    labelled: bool = False
    about: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return {
            "monitor": self.monitor,
            "window": self.window,
            "answer": self.answer.value,
            "reasons": list(self.reasons),
            "scores": {k: float(v) for k, v in self.scores.items() if np.isfinite(v)},
            "kept": {k: [float(v) for v in values] for k, values in self.kept.items()},
            "alarms": list(self.alarms),
            "p": self.p,
            "alpha": self.alpha,
            "estimated": self.estimated,
            "labelled": self.labelled,
            "about": list(self.about),
            "limits": {k: float(v) for k, v in self.limits.items() if np.isfinite(v)},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """Read back what :meth:`to_json` gave."""
        return cls(
            value["monitor"],
            value["window"],
            Answer(value["answer"]),
            tuple(value["reasons"]),
            dict(value["scores"]),
            dict(value["kept"]),
            tuple(value["alarms"]),
            value["p"],
            value["alpha"],
            value["estimated"],
            value["labelled"],
            tuple(value["about"]),
            dict(value["limits"]),
        )


@dataclass(frozen=True)
class Figure:
    """How a column's values lie in the reference and in a window: what a page draws.

    Parameters
    ----------
    name
        Of the column, or of a statistic of a tensor or of the champion's outputs; as in the finding's scores.
    before, now
        Share of the reference's values, and of the window's, in each bin or of each level, float64 ``[bins]``.
    edges
        Of the bins, ascending, in the column's unit, float64 ``[bins + 1]``; None where there are levels. The
        first bin and the last hold what lies beyond as well.
    levels
        Words of the levels ``[bins]``.
    missing
        Share of the rows that have no value, in the reference and in the window.
    words
        What changed.
    """

    name: str
    before: npt.NDArray[np.float64]
    now: npt.NDArray[np.float64]
    edges: npt.NDArray[np.float64] | None = None
    levels: tuple[str, ...] = ()
    missing: tuple[float, float] = (0.0, 0.0)
    words: str = ""


@dataclass(frozen=True)
class Sample:
    """Rows as a monitor sees them: raw, encoded, and through the champion's eyes.

    Parameters
    ----------
    schema
        Frozen with the champion.
    frame
        Raw rows.
    number
        The window's number (0 for the reference).
    inputs
        Encoded model inputs, ``[rows, ...]`` each; of a broken window those that can be read.
    probabilities
        A classifier's output, float32 ``[rows, classes]``, or None.
    embedding
        Its last hidden layer, float32 ``[rows, width]``, or None.
    labels
        Class indices (int64 ``[rows]``, -1 where the label has not arrived) or, in a regression,
        numbers (float64, NaN where it has not).
    predictions
        A regression's output, float32 ``[rows, 1]``, or None.
    groups
        What each row is a picture of, uint64 ``[rows]``: rows of one group are not independent. None:
        each row is a group of its own.
    """

    schema: Schema
    frame: pd.DataFrame
    number: int = 0
    inputs: Arrays = field(default_factory=dict)
    probabilities: npt.NDArray[np.float32] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    labels: Labels | None = None
    predictions: npt.NDArray[np.float32] | None = None
    groups: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: npt.NDArray[Any]) -> Sample:
        """Return some rows: integers, or a mask ``[rows]``."""
        return dataclasses.replace(
            self,
            frame=self.frame.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows],
            inputs={name: array[rows] for name, array in self.inputs.items()},
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            embedding=None if self.embedding is None else self.embedding[rows],
            labels=None if self.labels is None else self.labels[rows],
            predictions=None if self.predictions is None else self.predictions[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    @property
    def outputs(self) -> npt.NDArray[np.float32] | None:
        """The champion's main output: its predictions in a regression, else its probabilities."""
        return self.predictions if self.schema.task == "regression" else self.probabilities


Summary = Mapping[str, npt.NDArray[Any]]
"""What a monitor keeps of rows, array by array; the arrays are stored as they are, and hold no objects."""


@dataclass(frozen=True)
class Case:
    """A window beside the reference, as a monitor judges it.

    Parameters
    ----------
    fitted
        What the monitor fitted to the reference.
    seen
        What it kept of all rows of the window, batch by batch.
    reference, current
        Rows of both, and what the champion makes of them: a draw where there are more than
        ``monitors.rows``.
    alpha
        Rate of alarms that it may give on quiet windows.
    past
        Its own findings under this champion on windows before, oldest first; of a monitor that needs
        labels those on windows whose labels no round has been started by.
    metric
        What quality means in the project.
    """

    fitted: Summary
    seen: Summary
    reference: Sample
    current: Sample
    alpha: float
    past: tuple[Finding, ...] = ()
    metric: Metric = field(default_factory=Accuracy)


class Monitor(Protocol):
    """Looks at one window of production data beside the reference.

    A monitor is a frozen dataclass whose fields are its settings. ``guards`` marks one that runs
    first, on raw rows alone, and whose ``broken`` quarantines the window; ``needs_labels`` one that
    waits for them. ``statistical`` ones share ``monitors.false_alarms`` between them.

    One that is to see every row of a window, however many, fits something to the reference and keeps a
    summary of each batch. :class:`OnDraw` is the base of those to which a draw of the rows is enough.
    """

    @property
    def name(self) -> str:
        """Under which it is used; a class attribute as a rule, as are the three that follow."""
        ...

    @property
    def guards(self) -> bool:
        """Whether it runs first, on raw rows alone."""
        ...

    @property
    def needs_labels(self) -> bool:
        """Whether it waits for them."""
        ...

    @property
    def statistical(self) -> bool:
        """Whether it alarms by chance, at a rate that it is given."""
        ...

    def fit(self, reference: Sample) -> Summary:
        """Return what batches are summarized by, such as bins; kept with the champion's version."""
        ...

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        """Return what is kept of some of a window's raw rows."""
        ...

    def add(self, fitted: Summary, one: Summary, other: Summary) -> Summary:
        """Return the summary of two batches, ``one`` before ``other``."""
        ...

    def check(self, case: Case) -> Finding:
        """Judge a window; alarm on quiet data with probability ``case.alpha`` at most."""
        ...

    def keep(self, case: Case) -> Summary:
        """Return what is stored with the window for a page made later; nothing where there is nothing to draw."""
        ...

    def figures(self, fitted: Summary, kept: Summary) -> Sequence[Figure]:
        """Return how columns lie in the reference and in a window, from what was fitted to one and kept of the other.

        What was fitted is stored with the version, once something is kept of a window.
        """
        ...


class OnDraw:
    """The base of a monitor that keeps nothing of a batch: a draw of the rows is enough to it."""

    def fit(self, reference: Sample) -> Summary:
        """Fit nothing."""
        return {}

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        """Keep nothing."""
        return {}

    def add(self, fitted: Summary, one: Summary, other: Summary) -> Summary:
        """Return nothing."""
        return {}

    def keep(self, case: Case) -> Summary:
        """Store nothing with the window."""
        return {}

    def figures(self, fitted: Summary, kept: Summary) -> Sequence[Figure]:
        """Draw nothing: the reasons say all."""
        return ()


def case_of(monitor: Monitor, reference: Sample, current: Sample, alpha: float, past: Sequence[Finding] = ()) -> Case:
    """Lay a window that is at hand as a whole beside a reference; quality is accuracy, or the root of squared errors.

    Examples
    --------
    >>> sample = Sample(Schema(columns=()), pd.DataFrame())
    >>> Never().check(case_of(Never(), sample, sample, 0.05)).answer.value
    'fine'
    """
    fitted = monitor.fit(reference)
    metric: Metric = Rmse() if current.schema.task == "regression" else Accuracy()
    return Case(fitted, monitor.summarize(fitted, current), reference, current, alpha, tuple(past), metric)


@dataclass(frozen=True)
class Never(OnDraw):
    """A monitor that finds every window fine: the null object for tests and for switching monitoring off.

    Examples
    --------
    >>> sample = Sample(Schema(columns=()), pd.DataFrame())
    >>> Never().check(case_of(Never(), sample, sample, 0.05)).answer.value
    'fine'
    """

    name: ClassVar[str] = "never"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = False

    def check(self, case: Case) -> Finding:
        """Find it fine."""
        return Finding(self.name, case.current.number, Answer.FINE)


@dataclass(frozen=True)
class Always(OnDraw):
    """A monitor that gives one answer to every window: to try a trigger, or to retrain on a schedule.

    Parameters
    ----------
    answer
        What it says.
    """

    answer: Answer = Answer.WORSE

    name: ClassVar[str] = "always"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = False

    def check(self, case: Case) -> Finding:
        """Say what the settings say."""
        return Finding(self.name, case.current.number, self.answer, (f"the monitor 'always' says {self.answer}",))
