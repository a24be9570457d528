"""What quality means: a metric that is found by name, and a model's answers on labelled rows that it is taken of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy import stats

from trimtab import discover
from trimtab.data import Rows
from trimtab.errors import SettingsError
from trimtab.intervals import Interval, Resampled, bootstrap, proportion
from trimtab.runtime import Session
from trimtab.window import Labels, Task, arrived

__all__ = [
    "Accuracy",
    "Answers",
    "Mae",
    "Metric",
    "Rmse",
    "Weighed",
    "answer",
    "choose",
    "quality",
    "score",
    "spread",
    "utility",
    "weighed",
]

Outputs = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class Metric(Protocol):
    """What quality means, as one figure of a model's outputs on labelled rows.

    A frozen dataclass whose fields are its settings. ``task`` says whose outputs it reads;
    ``larger_is_better`` which way is up; ``relative`` whether a loss is counted as a fraction of the
    champion's value (an error in the label's units) or in the metric's own (a share between 0 and 1).
    """

    name: ClassVar[str]
    task: ClassVar[Task]
    larger_is_better: ClassVar[bool]
    relative: ClassVar[bool]

    def score(self, outputs: Outputs, labels: Labels, weights: Floats | None = None) -> float:
        """Return the figure.

        Parameters
        ----------
        outputs
            Probabilities (float32 ``[rows, classes]``) or predictions (float32 ``[rows, 1]``). A row
            whose output is not finite counts as wrong, or as the worst loss; never as right.
        labels
            Class indices or numbers ``[rows]``; rows whose label is missing (-1, NaN) are left out.
        weights
            Of the rows (float64 ``[rows]``), or None: each counts once.

        Returns
        -------
        float
            NaN where the rows do not determine it (none, or of one class where two are needed).
        """
        ...


@runtime_checkable
class Weighed(Protocol):
    """A metric that also computes itself under many weightings at once, which makes its bootstrap fast."""

    def weighed(self, outputs: Outputs, labels: Labels, weights: Floats) -> Floats:
        """Return the figure ``[resamples]`` under each of ``weights`` (float64 ``[resamples, rows]``)."""
        ...


@dataclass(frozen=True)
class Answers:
    """A model's outputs on labelled rows.

    Parameters
    ----------
    outputs
        Main output, float32 ``[rows, k]``: probabilities of ``k`` classes, or one prediction.
    labels
        Class indices or numbers ``[rows]``.
    groups
        Group of each row (uint64 ``[rows]``): rows of one group are not independent.
    segments
        Segments that each row belongs to, text ``column=value`` ``[rows, columns]``, or None.
    """

    outputs: Outputs
    labels: Labels
    groups: npt.NDArray[np.uint64]
    segments: npt.NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[Any]) -> Answers:
        """Return the rows at ``index`` (integers or a mask)."""
        segments = None if self.segments is None else self.segments[index]
        return Answers(self.outputs[index], self.labels[index], self.groups[index], segments)

    @staticmethod
    def join(parts: Sequence[Answers]) -> Answers:
        """Return the rows of all ``parts``, one after the other."""
        parts = [p for p in parts if len(p)] or parts[:1]
        segments = [p.segments for p in parts if p.segments is not None]
        return Answers(
            np.concatenate([p.outputs for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.groups for p in parts]),
            np.concatenate(segments) if segments else None,
        )


def answer(session: Session, rows: Rows, batch: int = 256) -> Answers:
    """Let a model answer rows, ``batch`` at a time; no rows give outputs ``[0, 1]``."""
    parts = [
        session.predict({k: v[start : start + batch] for k, v in rows.inputs.items()})
        for start in range(0, len(rows), batch)
    ]
    outputs = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    return Answers(np.asarray(outputs, dtype=np.float32), rows.labels, rows.groups, rows.segments)


class _OfRows(ABC):
    """A metric that follows from the mean of one value a row."""

    @abstractmethod
    def values(self, outputs: Outputs, labels: Labels) -> Floats:
        """Return what each labelled row contributes (float64 ``[rows]``)."""

    def of_mean(self, mean: Floats) -> Floats:
        """Return the figure of a mean."""
        return mean

    def score(self, outputs: Outputs, labels: Labels, weights: Floats | None = None) -> float:
        """Return the figure; NaN without rows."""
        return float(self.weighed(outputs, labels, np.ones((1, len(labels))) if weights is None else weights[None])[0])

    def weighed(self, outputs: Outputs, labels: Labels, weights: Floats) -> Floats:
        """Return the figure ``[resamples]`` under each of ``weights`` (float64 ``[resamples, rows]``)."""
        known = arrived(labels)
        values, weights = self.values(outputs[known], labels[known]), weights[:, known]
        lost = ~np.isfinite(values)
        total = weights.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = weights @ np.where(lost, 0.0, values) / total
        return self.of_mean(np.where((weights[:, lost] > 0).any(axis=1), np.inf, means))


@dataclass(frozen=True)
class Accuracy(_OfRows):
    """Share of rows whose most probable class is their label.

    Examples
    --------
    >>> Accuracy().score(np.array([[0.9, 0.1], [0.9, 0.1], [np.nan, 0.1]], np.float32), np.array([0, 1, 0]))
    0.333...
    """

    name: ClassVar[str] = "accuracy"
    task: ClassVar[Task] = "classification"
    larger_is_better: ClassVar[bool] = True
    relative: ClassVar[bool] = False

    def values(self, outputs: Outputs, labels: Labels) -> Floats:
        """Return 1 for each row whose most probable class is its label, else 0 (float64 ``[rows]``)."""
        right = (outputs.argmax(axis=1) == labels) & np.isfinite(outputs).all(axis=1)
        return np.asarray(right, dtype=np.float64)


@dataclass(frozen=True)
class Mae(_OfRows):
    """Mean absolute error, in the label's units.

    Examples
    --------
    >>> Mae().score(np.array([[1.0], [5.0]], np.float32), np.array([2.0, 2.0]))
    2.0
    """

    name: ClassVar[str] = "mae"
    task: ClassVar[Task] = "regression"
    larger_is_better: ClassVar[bool] = False
    relative: ClassVar[bool] = True

    def values(self, outputs: Outputs, labels: Labels) -> Floats:
        """Return each row's absolute error; infinite where the prediction is not finite."""
        errors = np.abs(outputs[:, 0].astype(np.float64) - labels)
        return np.where(np.isfinite(errors), errors, np.inf)


@dataclass(frozen=True)
class Rmse(_OfRows):
    """Root of the mean squared error, in the label's units.

    Examples
    --------
    >>> Rmse().score(np.array([[1.0], [5.0]], np.float32), np.array([2.0, 2.0]))
    2.236...
    """

    name: ClassVar[str] = "rmse"
    task: ClassVar[Task] = "regression"
    larger_is_better: ClassVar[bool] = False
    relative: ClassVar[bool] = True

    def values(self, outputs: Outputs, labels: Labels) -> Floats:
        """Return each row's squared error; infinite where the prediction is not finite."""
        return np.asarray(Mae().values(outputs, labels) ** 2)

    def of_mean(self, mean: Floats) -> Floats:
        """Return the root."""
        return np.asarray(np.sqrt(mean))


def score(metric: Metric, answers: Answers) -> float:
    """Return a metric of a model's answers."""
    return metric.score(answers.outputs, answers.labels)


def weighed(metric: Metric, answers: Answers) -> Resampled:
    """Return a metric of a model's answers as a function of many weightings of the rows."""
    if isinstance(metric, Weighed):
        fast = metric.weighed
        return lambda weights: fast(answers.outputs, answers.labels, weights)
    return lambda weights: np.array([metric.score(answers.outputs, answers.labels, w) for w in weights])


def quality(metric: Metric, answers: Answers, confidence: float) -> Interval:
    """Return a metric with its interval: Wilson's for accuracy, a bootstrap over groups for any other."""
    if isinstance(metric, Accuracy):
        return proportion(metric.values(answers.outputs, answers.labels), answers.groups, confidence)
    return Interval(score(metric, answers), *bootstrap(weighed(metric, answers), answers.groups, confidence))


def utility(metric: Metric, value: float) -> float:
    """Return a metric's value on a scale on which more is better and differences mean what the gate's margins mean.

    A relative metric's logarithm: 0.01 more is an error smaller by one hundredth. What is not a number
    is the least of all.

    Examples
    --------
    >>> utility(Accuracy(), 0.9), round(utility(Rmse(), 0.99) - utility(Rmse(), 1.0), 3)
    (0.9, 0.01)
    """
    if math.isnan(value):
        return -math.inf
    if metric.relative:
        value = math.log(max(value, np.finfo(np.float64).tiny))
    return value if metric.larger_is_better else -value


def spread(metric: Metric, interval: Interval, confidence: float) -> float:
    """Return about the standard error of a metric's :func:`utility`, from its interval; infinite without one."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return math.inf
    return abs(utility(metric, interval.high) - utility(metric, interval.low)) / (
        2 * float(stats.norm.ppf(0.5 + confidence / 2))
    )


def choose(named: str | Mapping[str, Mapping[str, Any] | None], trainer: str, task: Task) -> Metric:
    """Make the metric that ``model.metric`` names.

    Parameters
    ----------
    named
        A name, or one name with a mapping of its settings.
    trainer, task
        What the project's models are trained by, and for.

    Raises
    ------
    SettingsError
        When the metric is not of the trainer's task.
    PluginError
        When no such metric is installed.

    Examples
    --------
    >>> choose("rmse", "torch.classifier", "classification")
    Traceback (most recent call last):
    ...
    trimtab.errors.SettingsError: model.metric 'rmse' is for regression, but model.trainer 'torch.classifier' ...
    """
    name, settings = (named, None) if isinstance(named, str) else next(iter(named.items()))
    found: Metric = discover.build("metrics", name, settings or {}, "model.metric")
    if found.task != task:
        fitting = [n for n in sorted(discover.installed("metrics")) if _is_for(n, task)]
        raise SettingsError(
            f"model.metric {name!r} is for {found.task}, but model.trainer {trainer!r} is for {task}; "
            f"name a metric of that task ({', '.join(fitting)}), or another trainer"
        )
    return found


def _is_for(name: str, task: Task) -> bool:
    return bool(discover.find("metrics", name).task == task)
