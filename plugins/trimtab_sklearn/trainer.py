"""The trainers of scikit-learn's classifiers and regressors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from trimtab.artifact import Model
from trimtab.data import Data
from trimtab.errors import nearest
from trimtab.technique import Job
from trimtab.window import Arrays, Task
from trimtab_sklearn.families import FAMILIES
from trimtab_sklearn.fitted import FORMAT, Fitted, Spec, frame_of
from trimtab_sklearn.training import fit, fit_anew

__all__ = ["Classifier", "EstimatorTrainer", "Regressor", "check_family"]


def check_family(where: str, family: str | None) -> None:
    """Raise a ValueError for a name that is no family's; None passes."""
    if family is not None and family not in FAMILIES:
        raise ValueError(f"{where} must be one of {', '.join(FAMILIES)}, got {family!r}.{nearest(family, FAMILIES)}")


@dataclass(frozen=True)
class EstimatorTrainer:
    """Fits an estimator of scikit-learn.

    Parameters
    ----------
    factory
        ``module:name`` of what gives an unfitted estimator or pipeline, which reads a data frame of the schema's
        columns: numbers and whole-number categories in float32, then texts, of which a missing one is empty.
    family
        Instead of a factory one of ours, with preprocessing that fits the schema: ``random_forest`` (what
        is taken where neither is named), ``extra_trees``, ``gradient_boosting``, ``hist_gradient_boosting``,
        ``decision_tree`` or ``linear``.
    arguments
        What to call the factory with, or parameters of the family's estimator.
    """

    factory: str | None = None
    family: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    task: ClassVar[Task]
    gives: ClassVar[str] = FORMAT
    techniques: ClassVar[tuple[str, ...]] = ("sklearn.fit", "prune.trees", "sklearn.export")

    def __post_init__(self) -> None:
        check_family("model.family", self.family)
        if self.factory is not None and self.family is not None:
            raise ValueError(
                f"model.factory {self.factory!r} and model.family {self.family!r} both name an estimator; leave out one"
            )

    def draft(self, inputs: Arrays, job: Job) -> Model:
        """Fit the model to made-up labels of a few rows, for only a fitted one can be converted."""
        frame = frame_of(job.schema, inputs)
        rows = np.arange(len(frame))
        labels = rows.astype(np.float64) if self.task == "regression" else rows % len(job.schema.classes)
        spec = self._spec(job)
        estimator = spec.build(job.seed)
        fit(estimator, frame, labels, job, "model")
        return Fitted(spec, estimator).save(job.folder, {})

    def fit(self, data: Data, job: Job) -> Model:
        """Fit on the training rows into ``job.folder``."""
        fitted = fit_anew(self._spec(job), data, job, "model")
        return fitted.save(job.folder, {})

    def _spec(self, job: Job) -> Spec:
        asked = {"factory": self.factory, "family": self.family, "arguments": dict(self.arguments)}
        return Spec(self.factory, self.family, dict(self.arguments), job.schema, asked=asked)


@dataclass(frozen=True)
class Classifier(EstimatorTrainer):
    """Fit a classifier of scikit-learn that gives probabilities, to class indices.

    Settings are those of :class:`trimtab_sklearn.trainer.EstimatorTrainer`.

    Examples
    --------
    >>> Classifier(family="forest")
    Traceback (most recent call last):
    ...
    ValueError: model.family must be one of random_forest, ..., got 'forest'. Did you mean ...?
    """

    name: ClassVar[str] = "sklearn.classifier"
    task: ClassVar[Task] = "classification"


@dataclass(frozen=True)
class Regressor(EstimatorTrainer):
    """Fit a regressor of scikit-learn to a numeric label.

    Settings are those of :class:`trimtab_sklearn.trainer.EstimatorTrainer`.

    Examples
    --------
    >>> Regressor(factory="mine:build", family="linear")
    Traceback (most recent call last):
    ...
    ValueError: model.factory 'mine:build' and model.family 'linear' both name an estimator; leave out one
    """

    name: ClassVar[str] = "sklearn.regressor"
    task: ClassVar[Task] = "regression"
