"""What a monitor sees, and the Finding that it answers with: broken, moved, worse, fine or unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.metric import Accuracy, Metric, Rmse
from trimtab.window import Arrays, Labels, Schema

__all__ = ["Answer", "Case", "Finding", "Monitor", "OnDraw", "Sample", "Summary", "case_of"]


class Answer(StrEnum):
    """The possible answers of a monitor, worst first."""

    BROKEN = "broken"
    WORSE = "worse"
    MOVED = "moved"
    UNKNOWN = "unknown"
    FINE = "fine"


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
        Every score by column (or metric), also those that did not alarm.
    kept
        Numbers that the monitor is shown again, with its later windows (``Case.past``).
    estimated
        Whether it is an estimate, made without labels.
    """

    monitor: str
    window: int
    answer: Answer
    reasons: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, Sequence[float]] = field(default_factory=dict)
    estimated: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return {
            "monitor": self.monitor,
            "window": self.window,
            "answer": self.answer.value,
            "reasons": list(self.reasons),
            "scores": {k: float(v) for k, v in self.scores.items() if np.isfinite(v)},
            "kept": {k: [float(v) for v in values] for k, values in self.kept.items()},
            "estimated": self.estimated,
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
            dict(value.get("kept", {})),
            bool(value.get("estimated", False)),
        )


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
        Encoded model inputs, ``[rows, ...]`` each; empty where integrity has not passed.
    probabilities
        A classifier's output, float32 ``[rows, classes]``, or None.
    embedding
        Its last hidden layer, float32 ``[rows, width]``, or None.
    labels
        Class indices (int64 ``[rows]``, -1 where the label has not arrived) or, in a regression,
        numbers (float64, NaN where it has not).
    predictions
        A regression's output, float32 ``[rows, 1]``, or None.
    """

    schema: Schema
    frame: pd.DataFrame
    number: int = 0
    inputs: Arrays = field(default_factory=dict)
    probabilities: npt.NDArray[np.float32] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    labels: Labels | None = None
    predictions: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.frame)

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
    metric
        What the project means by quality.
    past
        Its own findings on the windows before under this champion, oldest first.
    """

    fitted: Summary
    seen: Summary
    reference: Sample
    current: Sample
    alpha: float
    metric: Metric
    past: tuple[Finding, ...] = ()


class Monitor(Protocol):
    """Looks at one window of production data beside the reference.

    A monitor is a frozen dataclass whose fields are its settings. ``guards`` marks one that runs
    first, on raw rows alone, and whose ``broken`` quarantines the window; ``needs_labels`` one that
    waits for them. ``statistical`` ones share ``monitors.false_alarms`` between them.

    One that is to see every row of a window, however many, fits something to the reference and keeps a
    summary of each batch. :class:`OnDraw` is the base of those to which a draw of the rows is enough.
    """

    name: ClassVar[str]
    guards: ClassVar[bool]
    needs_labels: ClassVar[bool]
    statistical: ClassVar[bool]

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

    def report(self, case: Case, path: Path) -> bool:
        """Write a page that explains an alarm to ``path`` (HTML); return whether there is one."""
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


def case_of(
    monitor: Monitor,
    reference: Sample,
    current: Sample,
    alpha: float,
    past: Sequence[Finding] = (),
    metric: Metric | None = None,
) -> Case:
    """Lay a window that is at hand as a whole beside a reference.

    Parameters
    ----------
    metric
        Without it accuracy, or in a regression the root mean squared error.

    Examples
    --------
    >>> sample = Sample(Schema(columns=()), pd.DataFrame())
    >>> Never().check(case_of(Never(), sample, sample, 0.05)).answer.value
    'fine'
    """
    fitted = monitor.fit(reference)
    metric = metric or (Rmse() if reference.schema.task == "regression" else Accuracy())
    return Case(fitted, monitor.summarize(fitted, current), reference, current, alpha, metric, tuple(past))


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

    def report(self, case: Case, path: Path) -> bool:
        """Write nothing."""
        return False


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

    def report(self, case: Case, path: Path) -> bool:
        """Write nothing."""
        return False
