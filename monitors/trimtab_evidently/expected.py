"""The labels that rows may have, and how likely each is, as a champion's outputs on labelled rows teach it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.isotonic import IsotonicRegression
from threadpoolctl import threadpool_limits

from trimtab.metric import Answers, Metric, weighed
from trimtab.window import Labels
from trimtab_evidently.likeness import FOLDS, Folds
from trimtab_evidently.sketch import Floats

__all__ = ["Guess", "by_loss", "by_probability"]

Outputs = npt.NDArray[np.float32]

LEAST = 1e-3
TREES = 60
LEAVES = 8


@dataclass(frozen=True)
class Guess:
    """Labels that rows may have.

    Parameters
    ----------
    rows
        Which row each label is for ``[labels]``; a row may have several.
    labels
        Class indices or numbers ``[labels]``.
    chance
        How likely each is (float64 ``[labels]``).
    """

    rows: npt.NDArray[np.intp]
    labels: Labels
    chance: Floats

    @classmethod
    def sure(cls, labels: Labels) -> Guess:
        """Return labels that are known."""
        return cls(np.arange(len(labels)), labels, np.ones(len(labels)))

    @classmethod
    def of(cls, probabilities: Floats) -> Guess:
        """Return every class that is not too improbable to count, of probabilities ``[rows, classes]``."""
        rows, classes = np.nonzero(probabilities >= LEAST)
        return cls(rows, classes, probabilities[rows, classes])

    def figures(self, metric: Metric, outputs: Outputs, weights: Floats) -> Floats:
        """Return what a metric of the outputs is expected to be ``[weightings]``.

        Each row counts once for every label that it may have, by how likely that is.

        Parameters
        ----------
        weights
            Of the rows (float64 ``[weightings, rows]``).
        """
        answers = Answers(outputs[self.rows], self.labels, np.zeros(len(self.rows), np.uint64))
        return weighed(metric, answers)(weights[:, self.rows] * self.chance)


def by_probability(outputs: Outputs, labels: Labels, folds: Folds, current: Outputs) -> tuple[Guess, Guess]:
    """Calibrate a classifier's probabilities on labelled rows, and guess those rows' labels and a window's.

    Isotonic regression, one class against the rest, scaled to sum to 1 (Zadrozny and Elkan 2002). A labelled
    row is guessed by the folds that it is not in, a row of the window by all of them.

    Parameters
    ----------
    outputs, labels, folds
        Of the labelled rows: probabilities ``[rows, classes]``, class indices, fold of each.
    current
        Probabilities of the window's rows ``[rows, classes]``.
    """
    known, asked = (np.nan_to_num(o.astype(np.float64), nan=0.0) for o in (outputs, current))
    honest, guessed = np.zeros(known.shape), np.zeros(asked.shape)
    for fold in range(FOLDS):
        learn, held_back = folds != fold, folds == fold
        both = _calibrated(known[learn], labels[learn], np.concatenate([known[held_back], asked]))
        honest[held_back], part = np.split(both, [int(held_back.sum())])
        guessed += part / FOLDS
    return Guess.of(honest), Guess.of(guessed)


def _calibrated(known: Floats, labels: Labels, asked: Floats) -> Floats:
    maps = (IsotonicRegression(out_of_bounds="clip").fit(known[:, c], labels == c) for c in range(known.shape[1]))
    found = np.stack([m.predict(asked[:, c]) for c, m in enumerate(maps)], axis=1)
    total = found.sum(axis=1, keepdims=True)
    return np.where(total > 0, found / np.where(total > 0, total, 1.0), 1.0 / known.shape[1])


def by_loss(
    outputs: Outputs, labels: Labels, folds: Folds, current: Outputs, inputs: tuple[Floats, Floats], squared: bool
) -> tuple[Guess, Guess]:
    """Learn how far off a regression is, and guess labels that are as far from its predictions.

    Boosted trees from the inputs to a row's loss, the direct loss estimation of NannyML. A labelled row is
    guessed by trees that were grown without its fold, a row of the window by all of them.

    Parameters
    ----------
    outputs, labels, folds
        Of the labelled rows: predictions ``[rows, 1]``, numbers, fold of each.
    current
        Predictions for the window's rows ``[rows, 1]``.
    inputs
        Of the labelled rows and of the window's, as trees read them ``[rows, columns]``.
    squared
        Whether it is the squared error whose mean is to be right, or the absolute one.
    """
    errors = np.abs(outputs[:, 0].astype(np.float64) - labels)
    losses = errors**2 if squared else errors
    honest, guessed = np.zeros(len(outputs)), np.zeros(len(current))
    for fold in range(FOLDS):
        learn, held_back = folds != fold, folds == fold
        told = ~np.isnan(inputs[0][learn]).all(axis=0)
        trees = HistGradientBoostingRegressor(
            max_iter=TREES, max_leaf_nodes=LEAVES, early_stopping=False, random_state=0
        )
        with threadpool_limits(1):  # as in the drift monitor: so few rows are not worth threads
            trees.fit(inputs[0][learn][:, told], losses[learn])
            honest[held_back] = trees.predict(inputs[0][held_back][:, told])
            guessed += trees.predict(inputs[1][:, told]) / FOLDS
    before, now = (np.maximum(loss, 0.0) ** (0.5 if squared else 1.0) for loss in (honest, guessed))
    return Guess.sure(outputs[:, 0] + before), Guess.sure(current[:, 0] + now)
