"""Metrics of classifiers for classes that are rare or unequal, as scikit-learn computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, f1_score, recall_score

from trimtab.window import Labels, Task, arrived

__all__ = ["F1", "AveragePrecision", "BalancedAccuracy"]

Outputs = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


def _known(outputs: Outputs, labels: Labels, weights: Floats | None) -> tuple[Outputs, Labels, Floats]:
    """Return the rows whose label has arrived and whose weight is not nil."""
    weights = np.ones(len(labels)) if weights is None else weights
    keep = arrived(labels) & (weights > 0)
    return outputs[keep], labels[keep], weights[keep]


def _predicted(outputs: Outputs, labels: Labels) -> npt.NDArray[np.int64]:
    """Return the most probable class of each row; a wrong one where the output is not finite."""
    sane = np.isfinite(outputs).all(axis=1)
    return np.asarray(np.where(sane, outputs.argmax(axis=1), (labels + 1) % outputs.shape[1]), dtype=np.int64)


def _counted(outputs: Outputs, labels: Labels, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Return hits, rows and predictions of each class under many weightings, ``[resamples, classes]`` each."""
    known = arrived(labels)
    weights, labels, said = weights[:, known], labels[known], _predicted(outputs[known], labels[known])
    classes = np.arange(outputs.shape[1])
    are, told = (labels[:, None] == classes).astype(np.float64), (said[:, None] == classes).astype(np.float64)
    return weights @ (are * told), weights @ are, weights @ told


def _macro(values: Floats, rows: Floats) -> Floats:
    """Return the mean over the classes that occur; NaN where none does."""
    occurs = rows > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(occurs, values, 0.0).sum(axis=1) / occurs.sum(axis=1))


@dataclass(frozen=True)
class _OfClasses:
    """What metrics of a classification have in common."""

    task: ClassVar[Task] = "classification"
    larger_is_better: ClassVar[bool] = True
    relative: ClassVar[bool] = False


@dataclass(frozen=True)
class _OneOfTwo(_OfClasses):
    """What metrics have in common that look at one class of two, or at all of more."""

    positive: int = -1

    def __post_init__(self) -> None:
        if self.positive not in (-1, 0, 1):
            raise ValueError(f"positive must be 0, 1 or -1 (the last of two classes), got {self.positive}")


@dataclass(frozen=True)
class F1(_OneOfTwo):
    """Harmonic mean of precision and recall of one class of two; of more, the mean over the classes that occur.

    Parameters
    ----------
    positive
        Number of the class among two in sorted order; -1 is the last.

    Examples
    --------
    >>> outputs = np.array([[0.2, 0.8], [0.3, 0.7], [0.9, 0.1]], np.float32)
    >>> F1().score(outputs, np.array([1, 0, 0]))
    0.666...
    """

    name: ClassVar[str] = "f1"

    def score(self, outputs: Outputs, labels: Labels, weights: Floats | None = None) -> float:
        """Return F1; NaN where the class, or every class, is missing from the labels."""
        classes = outputs.shape[1]
        outputs, labels, weights = _known(outputs, labels, weights)
        counted = np.unique(labels) if classes > 2 else np.intersect1d(labels, [self.positive % classes])
        if not len(counted):
            return float("nan")
        said = _predicted(outputs, labels)
        return float(f1_score(labels, said, labels=counted, average="macro", sample_weight=weights, zero_division=0))

    def weighed(self, outputs: Outputs, labels: Labels, weights: Floats) -> Floats:
        """Return F1 ``[resamples]`` under each of ``weights`` (float64 ``[resamples, rows]``)."""
        hits, rows, told = _counted(outputs, labels, weights)
        values = 2 * hits / np.maximum(rows + told, np.finfo(np.float64).tiny)
        if outputs.shape[1] > 2:
            return _macro(values, rows)
        return np.where(rows[:, self.positive] > 0, values[:, self.positive], np.nan)


@dataclass(frozen=True)
class BalancedAccuracy(_OfClasses):
    """Mean over the classes that occur of the share of their rows that are predicted right.

    Examples
    --------
    >>> outputs = np.array([[0.9, 0.1]] * 4, np.float32)
    >>> BalancedAccuracy().score(outputs, np.array([0, 0, 0, 1]))
    0.5
    """

    name: ClassVar[str] = "balanced_accuracy"

    def score(self, outputs: Outputs, labels: Labels, weights: Floats | None = None) -> float:
        """Return the mean recall; NaN without rows."""
        outputs, labels, weights = _known(outputs, labels, weights)
        if not len(labels):
            return float("nan")
        said, classes = _predicted(outputs, labels), np.unique(labels)
        return float(recall_score(labels, said, labels=classes, average="macro", sample_weight=weights))

    def weighed(self, outputs: Outputs, labels: Labels, weights: Floats) -> Floats:
        """Return the mean recall ``[resamples]`` under each of ``weights`` (float64 ``[resamples, rows]``)."""
        hits, rows, _ = _counted(outputs, labels, weights)
        return _macro(hits / np.maximum(rows, np.finfo(np.float64).tiny), rows)


@dataclass(frozen=True)
class AveragePrecision(_OneOfTwo):
    """Mean of the precisions at each threshold, weighed by the recall that it gains (no interpolation).

    Of two classes that of the class ``positive``; of more, the mean over the classes that occur, each
    against all others.

    Parameters
    ----------
    positive
        Number of the class among two in sorted order; -1 is the last.

    Examples
    --------
    >>> outputs = np.array([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]], np.float32)
    >>> AveragePrecision().score(outputs, np.array([1, 0, 1, 0]))
    0.833...
    """

    name: ClassVar[str] = "average_precision"

    def score(self, outputs: Outputs, labels: Labels, weights: Floats | None = None) -> float:
        """Return average precision; NaN where the class, or every class, is missing from the labels."""
        classes = outputs.shape[1]
        outputs, labels, weights = _known(outputs, labels, weights)
        counted = [c for c in self._counted(classes) if (labels == c).any()]
        if not counted:
            return float("nan")
        each = [
            average_precision_score(labels == c, _certainty(outputs, labels, c), sample_weight=weights) for c in counted
        ]
        return float(np.mean(each))

    def weighed(self, outputs: Outputs, labels: Labels, weights: Floats) -> Floats:
        """Return average precision ``[resamples]`` under each of ``weights`` (float64 ``[resamples, rows]``)."""
        known = arrived(labels)
        outputs, labels, weights = outputs[known], labels[known], weights[:, known]
        classes = self._counted(outputs.shape[1])
        each = np.stack([_precision(_certainty(outputs, labels, c), labels == c, weights) for c in classes], axis=1)
        rows = np.stack([weights[:, labels == c].sum(axis=1) for c in classes], axis=1)
        return _macro(each, rows)

    def _counted(self, classes: int) -> list[int]:
        return list(range(classes)) if classes > 2 else [self.positive % classes]


def _certainty(outputs: Outputs, labels: Labels, positive: int) -> Floats:
    """Return how sure the model is of the class ``[rows]``; where it is not finite, as wrong as can be."""
    most = float(np.finfo(np.float32).max)
    worst = np.where(labels == positive, -most, most)
    return np.where(np.isfinite(outputs).all(axis=1), outputs[:, positive], worst)


def _precision(certainty: Floats, positive: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Return average precision under each weighting: the mean over positive rows of the precision at their value.

    The rows are ordered once; rows of one value share the threshold behind the last of them.
    """
    order = np.argsort(-certainty, kind="stable")
    ordered = np.take(weights, order, axis=1)
    hits = np.flatnonzero(positive[order])
    behind = np.searchsorted(-certainty[order], -certainty[order][hits], side="right")
    own = np.take(ordered, hits, axis=1)
    right = np.take(np.cumsum(own, axis=1), np.searchsorted(hits, behind) - 1, axis=1)
    told = np.take(np.cumsum(ordered, axis=1), behind - 1, axis=1)
    tiny = np.finfo(np.float64).tiny
    return np.asarray((own * right / np.maximum(told, tiny)).sum(axis=1) / np.maximum(own.sum(axis=1), tiny))
