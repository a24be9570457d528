"""Hyperparameters: drawn by Optuna, judged by cross-validation within the training rows, fitted on all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from trimtab.artifact import Model
from trimtab.data import Data, Rows
from trimtab.errors import DataError, OutOfTimeError, PluginError, nearest
from trimtab.technique import About, Job
from trimtab_sklearn.fitted import FORMAT, Fitted, Spec, described, frame_of, outputs_of, today
from trimtab_sklearn.ranges import check_ranges, ranges_of
from trimtab_sklearn.trainer import check_family
from trimtab_sklearn.training import fit, refuse_late, training_rows

__all__ = ["Tune"]

START_UP = 5
"""Trials that run through all folds before one may be given up for doing worse than half of them."""


@dataclass(frozen=True)
class Tune:
    """Search hyperparameters, and fit the estimator anew with the best.

    The first trial is the estimator as it is, so that what comes out is no worse by the folds' measure: log loss,
    or the mean squared error of a regression. Further ones are drawn by a tree-structured Parzen estimator
    (Bergstra et al. 2011, Optuna's ``TPESampler``). A trial whose folds so far do worse than the median of
    those before is given up (Optuna's ``MedianPruner``); so are settings that do not fit together, which the facts
    count (``failed``, with the reason of the first). Rows of one group are in one fold. No row beyond the
    training rows is read. It costs up to ``trials`` times ``folds`` fits.

    When the round's minutes do not suffice for another trial and the last fit, the best so far is taken, and
    ``facts.json`` says how many ``trials`` there were; the result then depends on the machine. It gives the
    parameters (``tuned``), and ``loss_before`` and ``loss`` of the folds.

    Parameters
    ----------
    trials
        Settings to try, at least 1.
    folds
        Of the cross-validation, at least 2.
    family
        To tune instead of the project's estimator; null: the project's.
    ranges
        What to draw, by the parameter's name in ``get_params`` (``estimator__max_depth``): a list of values, or
        ``{low, high}`` with ``log: true`` for a logarithmic scale. None named: those of :mod:`trimtab_sklearn.ranges`
        for the last step's estimator.

    References
    ----------
    J. Bergstra, R. Bardenet, Y. Bengio, B. Kégl: Algorithms for Hyper-Parameter Optimization. NIPS 2011.

    Examples
    --------
    >>> Tune(ranges={"estimator__max_depth": {"low": 8, "high": 2}})
    Traceback (most recent call last):
    ...
    ValueError: sklearn.tune.ranges.estimator__max_depth: low must be a number below high, got 8 and 2
    """

    trials: int = 10
    folds: int = 3
    family: str | None = None
    ranges: Mapping[str, Any] = field(default_factory=dict)

    about: ClassVar[About] = About(
        name="sklearn.tune",
        takes=FORMAT,
        gives=FORMAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        effort="trials",
        inherits=True,
        libraries=("scikit-learn", "skops", "optuna"),
    )

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("folds", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"sklearn.tune.{name} must be at least {least}, got {getattr(self, name)}")
        check_family("sklearn.tune.family", self.family)
        check_ranges("sklearn.tune.ranges", self.ranges)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the estimator with the best parameters into ``job.folder``."""
        spec = today(model, job, self.family)
        rows = training_rows(data, spec.schema)
        search = _Search(spec, rows, job, self._folds(rows, spec, job.seed))
        search.run(self.trials, self._ranges(spec, job.seed))
        best = replace(spec, tuned={**spec.tuned, **search.best})
        estimator = best.build(job.seed)
        fit(estimator, frame_of(best.schema, rows.inputs), rows.labels, job, self.about.name)
        fitted = Fitted(best, estimator)
        return fitted.save(job.folder, described(fitted) | search.facts)

    def _ranges(self, spec: Spec, seed: int) -> Mapping[str, Any]:
        unfitted = spec.build(seed)
        ranges = self.ranges or ranges_of(unfitted)
        known = unfitted.get_params(deep=True)
        for name in ranges:
            if name not in known:
                raise PluginError(
                    f"sklearn.tune.ranges.{name}: the estimator has no such parameter.{nearest(name, known)}"
                )
        if not ranges:
            raise PluginError(
                f"sklearn.tune knows no ranges for {type(unfitted).__name__}; name some in sklearn.tune.ranges"
            )
        return ranges

    def _folds(self, rows: Rows, spec: Spec, seed: int) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        groups = len(np.unique(rows.groups))
        if groups < self.folds:
            raise DataError(
                f"the {len(rows)} training rows are of {groups} group(s), and sklearn.tune.folds is {self.folds}; "
                "lower it, or use more windows (data.train)"
            )
        kind = GroupKFold if spec.schema.task == "regression" else StratifiedGroupKFold
        split = kind(self.folds, shuffle=True, random_state=seed)
        return list(split.split(np.zeros(len(rows)), rows.labels, rows.groups))


class _Search:
    """One search under way."""

    def __init__(self, spec: Spec, rows: Rows, job: Job, folds: list[tuple[Any, Any]]) -> None:
        self.spec, self.job, self.folds = spec, job, folds
        self.frame, self.labels = frame_of(spec.schema, rows.inputs), rows.labels
        self.best: Mapping[str, Any] = {}
        self.losses: list[float] = []
        self.failed: list[str] = []
        self.longest = 0.0
        self.done = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What is told of it."""
        return {
            "trials": self.done,
            "tuned": dict(self.best),
            "loss_before": self.losses[0],
            "loss": min(self.losses),
            "rows": len(self.frame),
            **({"failed": len(self.failed), "failed_first": self.failed[0]} if self.failed else {}),
        }

    def run(self, trials: int, ranges: Mapping[str, Any]) -> None:
        """Try as many settings as asked for, or as there is time for."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=START_UP)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.job.seed), pruner=pruner)
        while self.done < trials and self._in_time():
            began = time.monotonic()
            trial = study.ask()
            # the first is the estimator as it is, whatever the sampler drew; it learns from the others alone
            drawn = {name: _draw(trial, name, kind) for name, kind in ranges.items()} if self.done else {}
            try:
                loss = self._loss(drawn, trial)
            except optuna.TrialPruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            except OutOfTimeError:
                if not self.losses:
                    raise
                break
            except PluginError as error:  # settings that do not go together, such as a solver without this penalty
                if not self.losses:
                    raise
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                self.failed.append(str(error))
            else:
                study.tell(trial, loss)
                self.best = drawn if loss < min(self.losses, default=np.inf) else self.best
                self.losses.append(loss)
            self.done += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def _in_time(self) -> bool:
        """Tell whether there is time for another trial and for the last fit, which takes about as long as one."""
        if not self.done or self.job.deadline is None:
            return True
        return time.monotonic() + 2 * self.longest < self.job.deadline

    def _loss(self, drawn: Mapping[str, Any], trial: optuna.Trial) -> float:
        """Return the mean loss over the folds."""
        losses: list[float] = []
        for fold, (learnt, held) in enumerate(self.folds):
            refuse_late(self.job, Tune.about.name)
            estimator = replace(self.spec, tuned={**self.spec.tuned, **drawn}).build(self.job.seed)
            fit(estimator, self.frame.iloc[learnt], self.labels[learnt], self.job, Tune.about.name)
            losses.append(self._held_loss(estimator, self.frame.iloc[held], self.labels[held]))
            trial.report(float(np.mean(losses)), fold)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(losses))

    def _held_loss(self, estimator: BaseEstimator, frame: pd.DataFrame, labels: npt.NDArray[Any]) -> float:
        outputs = outputs_of(estimator, frame, self.spec.schema).astype(np.float64)
        if self.spec.schema.task == "regression":
            return float(mean_squared_error(labels, outputs[:, 0]))
        likely = outputs + 1e-7  # a forest may give a class that came no chance at all
        likely /= likely.sum(axis=1, keepdims=True)
        return float(log_loss(labels, likely, labels=range(len(self.spec.schema.classes))))


def _draw(trial: optuna.Trial, name: str, kind: Any) -> Any:
    if isinstance(kind, Mapping):
        low, high, log = kind["low"], kind["high"], bool(kind.get("log", False))
        whole = isinstance(low, int) and isinstance(high, int)
        return trial.suggest_int(name, low, high, log=log) if whole else trial.suggest_float(name, low, high, log=log)
    return trial.suggest_categorical(name, list(kind))
