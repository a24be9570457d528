"""Fitting an estimator on a round's rows: within its threads, and given up when time is out."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from trimtab.data import Data, Role, Rows
from trimtab.errors import DataError, OutOfTimeError, PluginError, TrimtabError
from trimtab.technique import Job
from trimtab.window import Labels, Schema, arrived
from trimtab_sklearn.fitted import Fitted, Spec, frame_of

__all__ = ["BOOSTED", "FORESTS", "fit", "fit_anew", "held_rows", "refuse_late", "training_rows", "workbench"]

FORESTS = (RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor)
STAGED = (GradientBoostingClassifier, GradientBoostingRegressor)
HISTOGRAM = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
BOOSTED = (*STAGED, *HISTOGRAM)
SLICES = 10
"""Parts that an ensemble's trees are grown in, with a look at the clock before each."""


def training_rows(data: Data, schema: Schema) -> Rows:
    """Return the labelled training rows.

    Raises
    ------
    DataError
        When there are none, or only one class occurs.
    """
    rows = data.rows(Role.TRAIN)
    rows = rows.take(arrived(rows.labels))
    if not len(rows):
        raise DataError(
            "there is no labelled training row; wait for the labels of a later window, "
            "use more windows (data.train), or raise data.split.train"
        )
    if schema.task == "classification" and len(present := np.unique(rows.labels)) < 2:
        raise DataError(
            f"all {len(rows)} training rows are of the one class {schema.classes[int(present[0])]!r}; "
            "a classifier needs at least 2: use more windows (data.train), or set data.replay"
        )
    return rows


def held_rows(data: Data) -> Rows:
    """Return labelled rows that no tree was fitted to, the calibration rows; where there are none, training rows.

    Raises
    ------
    DataError
        When no row of either has a label.
    """
    for role in (Role.CALIBRATION, Role.TRAIN):
        rows = data.rows(role)
        rows = rows.take(arrived(rows.labels))
        if len(rows):
            return rows
    raise DataError(
        "there is no labelled calibration or training row; wait for the labels of a later window, "
        "or raise data.split.calibration"
    )


def refuse_late(job: Job, where: str) -> None:
    """Raise an OutOfTimeError when the job's deadline has passed.

    Parameters
    ----------
    where
        What works, for the message.
    """
    if job.deadline is not None and time.monotonic() >= job.deadline:
        raise OutOfTimeError(f"{where}: the round's minutes were spent; raise optimize.minutes")


@contextlib.contextmanager
def workbench(job: Job) -> Iterator[None]:
    """Hold every pool to the job's threads, and start no process."""
    with threadpool_limits(job.threads), joblib.parallel_config("threading", n_jobs=job.threads):
        yield


def fit_anew(spec: Spec, data: Data, job: Job, where: str) -> Fitted:
    """Build and fit an estimator on the training rows."""
    rows = training_rows(data, spec.schema)
    estimator = spec.build(job.seed)
    fit(estimator, frame_of(spec.schema, rows.inputs), rows.labels, job, where)
    return Fitted(spec, estimator)


def fit(estimator: BaseEstimator, frame: pd.DataFrame, labels: Labels, job: Job, where: str) -> None:
    """Fit an estimator in place.

    Where there is a deadline, a forest or a boosting at its end is grown a tenth of its trees at a time, which gives
    the same trees; any other estimator is fitted in one call that nothing interrupts.

    Raises
    ------
    OutOfTimeError
        When the job's deadline passes before the end, as far as the estimator lets anybody look.
    PluginError
        When scikit-learn cannot fit it.
    """
    refuse_late(job, where)
    try:
        with workbench(job), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _fit(estimator, frame, labels, job, where)
    except TrimtabError:
        raise
    except Exception as error:  # scikit-learn, or what the user's pipeline holds, may raise anything
        raise PluginError(
            f"{where} cannot fit the estimator on {len(frame)} rows: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _fit(estimator: BaseEstimator, rows: Any, labels: Labels, job: Job, where: str) -> None:
    if isinstance(estimator, Pipeline):
        prepared = estimator[:-1].fit_transform(rows, labels) if len(estimator.steps) > 1 else rows
        refuse_late(job, where)
        _fit(estimator.steps[-1][1], prepared, labels, job, where)
    elif job.deadline is not None and isinstance(estimator, (*FORESTS, *BOOSTED)) and not _stops_early(estimator):
        _grow(estimator, rows, labels, job, where)
    else:
        estimator.fit(rows, labels)


def _stops_early(estimator: BaseEstimator) -> bool:
    """Tell whether a boosting looks itself whether further trees help: grown in parts it would look anew in each."""
    if isinstance(estimator, HISTOGRAM):
        return bool(estimator.early_stopping)
    return isinstance(estimator, STAGED) and estimator.n_iter_no_change is not None


def _grow(estimator: BaseEstimator, rows: Any, labels: Labels, job: Job, where: str) -> None:
    name = "max_iter" if isinstance(estimator, HISTOGRAM) else "n_estimators"
    asked = {name: getattr(estimator, name), "warm_start": estimator.warm_start}
    counts = sorted({-(-asked[name] * part // SLICES) for part in range(1, SLICES + 1)})
    for count in counts:
        refuse_late(job, where)
        estimator.set_params(**{name: count, "warm_start": True}).fit(rows, labels)
    estimator.set_params(**asked)
