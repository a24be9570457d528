"""Smaller ensembles: trees that the others make up for go, and branches that are not worth their leaves."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.tree._tree import ccp_pruning_path

from trimtab.artifact import Model
from trimtab.data import Data, Rows
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_sklearn.fitted import FORMAT, Fitted, described, final, frame_of, preparation, widened
from trimtab_sklearn.training import BOOSTED, FORESTS, HISTOGRAM, held_rows, refuse_late, workbench

__all__ = ["PruneLeaves", "PruneTrees", "order_trees"]

Floats = npt.NDArray[np.float64]
SINGLE = (DecisionTreeClassifier, DecisionTreeRegressor)
STEPS = 64
"""Strengths of cost-complexity pruning that are told apart."""


@dataclass(frozen=True)
class PruneTrees:
    """Remove trees from a forest, or the last stages of a boosting.

    Of a forest those stay that do best together on rows that no tree was fitted to (calibration rows): begun
    with the best, each next is the one whose answer lowers the squared error of the average most (Caruana et al. 2004,
    without replacement; of the probabilities in a classification). A well-chosen part of a forest is
    often as good as the whole (Martínez-Muñoz and Suárez 2006). Of a boosting, whose trees mend what those before them
    left, the stages up to the least squared error on those rows stay, ``keep`` of them at most. No tree is altered
    and none is fitted. Time and size of the exported model fall with the trees.

    Parameters
    ----------
    keep
        Share of the trees, or most of a boosting's stages, that stay: above 0 and below 1.

    Raises
    ------
    PluginError
        When the estimator ends in neither.

    References
    ----------
    R. Caruana, A. Niculescu-Mizil, G. Crew, A. Ksikes: Ensemble Selection from Libraries of Models. ICML 2004.
    G. Martínez-Muñoz, A. Suárez: Pruning in Ordered Bagging Ensembles. ICML 2006.

    Examples
    --------
    >>> PruneTrees(keep=1.5)
    Traceback (most recent call last):
    ...
    ValueError: prune.trees.keep must be above 0 and below 1, got 1.5
    """

    keep: float = 0.3

    about: ClassVar[About] = About(
        name="prune.trees",
        takes=FORMAT,
        gives=FORMAT,
        needs_data=True,
        needs_labels=True,
        faster_on=("onnxruntime",),
        smaller=True,
        libraries=("scikit-learn", "skops"),
    )

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ValueError(f"prune.trees.keep must be above 0 and below 1, got {self.keep}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the smaller ensemble into ``job.folder``."""
        fitted = Fitted.load(model, job.factory)
        ensemble = final(fitted.estimator)
        if not isinstance(ensemble, (*FORESTS, *BOOSTED)):
            raise PluginError(
                f"prune.trees removes trees from forests and boostings, not from a {type(ensemble).__name__}; "
                "leave it out of optimize.techniques, or take another estimator"
            )
        before, rows = described(fitted), held_rows(data)
        refuse_late(job, self.about.name)
        with workbench(job):
            if isinstance(ensemble, FORESTS):
                _thin(ensemble, order_trees(*_votes(fitted, rows, job))[: self._most(len(ensemble.estimators_))])
            else:
                _truncate(ensemble, _best_stage(fitted, rows, self._most(_stages(ensemble))))
        return fitted.save(job.folder, described(fitted) | {"trees_before": before["trees"], "rows": len(rows)})

    def _most(self, trees: int) -> int:
        return max(1, round(self.keep * trees))


@dataclass(frozen=True)
class PruneLeaves:
    """Cut branches back by minimal cost-complexity pruning (Breiman et al. 1984), in a tree or in all of a forest.

    A branch goes when what it gains in purity, for each of its leaves, is below ``alpha``: scikit-learn's
    ``ccp_alpha``, applied to trees that are grown already. Without ``alpha`` the strongest pruning is searched, by
    halving, that loses at most ``max_drop`` on rows that no tree was fitted to (calibration rows). A
    boosting is refused: its leaves hold steps that were fitted to what the trees before left, and the nodes
    above them hold none.

    Parameters
    ----------
    max_drop
        Largest loss, as a fraction: of right answers in a classification (0.01 = one point), of the root mean squared
        error in a regression.
    alpha
        Strength of the pruning, 0 or more; null searches it.

    Raises
    ------
    PluginError
        When the estimator ends in neither a tree nor a forest.

    References
    ----------
    L. Breiman, J. Friedman, R. Olshen, C. Stone: Classification and Regression Trees. Wadsworth 1984, chapter 3.

    Examples
    --------
    >>> PruneLeaves(alpha=-0.1)
    Traceback (most recent call last):
    ...
    ValueError: prune.leaves.alpha must be 0 or more, got -0.1
    """

    max_drop: float = 0.005
    alpha: float | None = None

    about: ClassVar[About] = About(
        name="prune.leaves",
        takes=FORMAT,
        gives=FORMAT,
        needs_data=True,
        needs_labels=True,
        faster_on=("onnxruntime",),
        smaller=True,
        libraries=("scikit-learn", "skops"),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"prune.leaves.max_drop must be 0 or more and below 1, got {self.max_drop}")
        if self.alpha is not None and not 0 <= self.alpha < np.inf:
            raise ValueError(f"prune.leaves.alpha must be 0 or more, got {self.alpha}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the pruned trees into ``job.folder``."""
        fitted = Fitted.load(model, job.factory)
        kind = type(final(fitted.estimator))
        if not issubclass(kind, (*FORESTS, *SINGLE)):
            raise PluginError(
                f"prune.leaves prunes trees and forests, and the estimator is a {kind.__name__}; "
                "use prune.trees for a boosting, or take another estimator"
            )
        rows = held_rows(data)
        with workbench(job):
            alpha = self._searched(fitted, rows, job) if self.alpha is None else self.alpha
            pruned = _cut(fitted, alpha)
            lost = _drop(fitted.answer(rows.inputs), pruned.answer(rows.inputs), rows)
        before = {f"{name}_before": count for name, count in described(fitted).items() if name == "leaves"}
        return pruned.save(job.folder, described(pruned) | before | {"alpha": alpha, "lost": lost, "rows": len(rows)})

    def _searched(self, fitted: Fitted, rows: Rows, job: Job) -> float:
        """Return the largest strength that loses no more than allowed, 0 where each does."""
        whole = fitted.answer(rows.inputs)
        paths = [ccp_pruning_path(tree.tree_)["ccp_alphas"] for tree in _members(final(fitted.estimator))]
        found = np.unique(np.concatenate(paths))
        steps = np.unique(np.quantile(found, np.linspace(0, 1, STEPS), method="lower")) if len(found) > STEPS else found
        # just above: what is pruned at a strength is what gains less than it
        strengths = [0.0, *np.nextafter(steps[steps > 0], np.inf).tolist()]
        low, high = 0, len(strengths)
        while high - low > 1:
            refuse_late(job, self.about.name)
            middle = (low + high) // 2
            lost = _drop(whole, _cut(fitted, strengths[middle]).answer(rows.inputs), rows)
            low, high = (middle, high) if lost <= self.max_drop else (low, middle)
        return float(strengths[low])


def order_trees(votes: Floats, wanted: Floats) -> list[int]:
    """Return trees in the order in which each next lowers the squared error of the average most.

    Parameters
    ----------
    votes
        What each tree answers, ``[trees, values]``.
    wanted
        What is right, ``[values]``.

    Examples
    --------
    >>> order_trees(np.array([[0.0, 0.0], [3.0, 1.0], [1.0, 3.0]]), np.array([2.0, 2.0]))
    [1, 2, 0]
    """
    products, right = votes @ votes.T, votes @ wanted
    left, order = list(range(len(votes))), list[int]()
    with_sum, norm, sum_right = np.zeros(len(votes)), 0.0, 0.0
    while left:
        count = len(order) + 1
        norms = norm + 2 * with_sum[left] + products[left, left]
        errors = norms / count**2 - 2 * (sum_right + right[left]) / count
        chosen = left.pop(int(np.argmin(errors)))
        norm += 2 * with_sum[chosen] + products[chosen, chosen]
        sum_right += right[chosen]
        with_sum += products[chosen]
        order.append(chosen)
    return order


def _votes(fitted: Fitted, rows: Rows, job: Job) -> tuple[Floats, Floats]:
    """Return what each tree of a forest answers ``[trees, values]``, and what is right ``[values]``."""
    forest = final(fitted.estimator)
    prepared = np.asarray(_dense(preparation(fitted.estimator, frame_of(fitted.spec.schema, rows.inputs))), np.float32)
    votes = []
    for tree in forest.estimators_:
        refuse_late(job, PruneTrees.about.name)
        answers = tree.predict(prepared)[:, None] if _regresses(fitted) else tree.predict_proba(prepared)
        votes.append((answers if _regresses(fitted) else widened(answers, forest, fitted.spec.schema)).ravel())
    return np.asarray(votes, dtype=np.float64), _wanted(fitted, rows).ravel()


def _dense(rows: Any) -> Any:
    return rows.toarray() if hasattr(rows, "toarray") else rows


def _regresses(fitted: Fitted) -> bool:
    return fitted.spec.schema.task == "regression"


def _wanted(fitted: Fitted, rows: Rows) -> Floats:
    """Return the labels as the answers that would be right: numbers ``[rows, 1]``, or one-hot ``[rows, classes]``."""
    if _regresses(fitted):
        return np.asarray(rows.labels, dtype=np.float64)[:, None]
    return np.eye(len(fitted.spec.schema.classes))[rows.labels]


def _thin(forest: BaseEstimator, kept: list[int]) -> None:
    forest.estimators_ = [forest.estimators_[place] for place in sorted(kept)]
    forest.set_params(n_estimators=len(kept))


def _stages(boosting: BaseEstimator) -> int:
    return len(boosting._predictors if isinstance(boosting, HISTOGRAM) else boosting.estimators_)


def _best_stage(fitted: Fitted, rows: Rows, most: int) -> int:
    """Return after how many stages, at most ``most``, the squared error is least."""
    boosting, wanted = final(fitted.estimator), _wanted(fitted, rows)
    prepared = preparation(fitted.estimator, frame_of(fitted.spec.schema, rows.inputs))
    if _regresses(fitted):
        staged = (answers[:, None] for answers in boosting.staged_predict(prepared))
    else:
        staged = (widened(p, boosting, fitted.spec.schema) for p in boosting.staged_predict_proba(prepared))
    errors = [float(((answers - wanted) ** 2).mean()) for _, answers in zip(range(most), staged, strict=False)]
    return int(np.argmin(errors)) + 1


def _truncate(boosting: BaseEstimator, stages: int) -> None:
    if isinstance(boosting, HISTOGRAM):
        boosting._predictors = boosting._predictors[:stages]
        boosting.set_params(max_iter=stages)
        return
    boosting.estimators_ = boosting.estimators_[:stages]
    boosting.n_estimators_ = stages
    boosting.train_score_ = boosting.train_score_[:stages]
    boosting.set_params(n_estimators=stages)


def _members(estimator: BaseEstimator) -> list[BaseEstimator]:
    return [estimator] if isinstance(estimator, SINGLE) else list(estimator.estimators_)


def _cut(fitted: Fitted, alpha: float) -> Fitted:
    """Return a copy whose trees are pruned by a strength."""
    pruned = fitted.with_estimator(copy.deepcopy(fitted.estimator))
    for tree in _members(final(pruned.estimator)):
        own = tree.ccp_alpha
        tree.set_params(ccp_alpha=alpha)._prune_tree()  # what scikit-learn does at the end of a tree's fit
        tree.set_params(ccp_alpha=own)
    return pruned


def _drop(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32], rows: Rows) -> float:
    """Return what is lost, as a fraction: of right answers, or by how much the error grew."""
    if before.shape[1] == 1:
        grown, error = (float(np.sqrt(((o[:, 0] - rows.labels) ** 2).mean())) for o in (after, before))
        return (grown - error) / error if error > 0 else float(grown > 0)
    right = [float((outputs.argmax(axis=1) == rows.labels).mean()) for outputs in (before, after)]
    return right[0] - right[1]
