"""Fitting anew on a round's rows, by the project's own estimator or one of another family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trimtab.artifact import Model
from trimtab.data import Data
from trimtab.technique import About, Job
from trimtab_sklearn.fitted import FORMAT, described, today
from trimtab_sklearn.trainer import check_family
from trimtab_sklearn.training import fit_anew

__all__ = ["Fit"]

LIBRARIES = ("scikit-learn", "skops")


@dataclass(frozen=True)
class Fit:
    """Fit the estimator anew on the round's rows, its preprocessing with it; nothing of the parent's is kept.

    What tuning found for the parent is: its parameters are taken again while the project names the same
    estimator. Several families in a list are a choice that the search makes; a later round goes on from the
    family that won. ``facts.json`` names it
    (``estimator``), with its ``trees``. A forest or a boosting
    looks at the deadline ten times, any other estimator before it begins.

    Parameters
    ----------
    family
        To fit instead of the project's estimator; null: the project's.

    Examples
    --------
    >>> Fit(family="linear").about.renews_parent
    True
    """

    family: str | None = None

    about: ClassVar[About] = About(
        name="sklearn.fit",
        takes=FORMAT,
        gives=FORMAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        inherits=True,
        libraries=LIBRARIES,
    )

    def __post_init__(self) -> None:
        check_family("sklearn.fit.family", self.family)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the newly fitted estimator into ``job.folder``."""
        fitted = fit_anew(today(model, job, self.family), data, job, self.about.name)
        return fitted.save(job.folder, described(fitted))
