"""A fitted estimator as a parent: what it was made from beside what came of it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn
from pydantic import ValidationError
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.pipeline import Pipeline
from sklearn.tree._tree import Tree

from trimtab.artifact import Model, read_json, write_json
from trimtab.discover import load_object
from trimtab.errors import ArtifactError, PluginError, nearest
from trimtab.technique import Job
from trimtab.window import NUMERIC_INPUT, Arrays, Schema
from trimtab_sklearn import families, store

__all__ = [
    "FORMAT",
    "Fitted",
    "Spec",
    "described",
    "final",
    "frame_of",
    "outputs_of",
    "preparation",
    "today",
    "trees_of",
]

FORMAT = "sklearn"
ESTIMATOR = "estimator.skops"
SPEC = "spec.json"
FACTS = "facts.json"
VERSION = 1
ASKED = ("factory", "family", "arguments")


@dataclass(frozen=True)
class Spec:
    """What an unfitted estimator is built from.

    Parameters
    ----------
    factory, family
        ``module:name`` of the user's code, or the name of one of ours: one of them.
    arguments
        What the project gives it.
    schema
        Of the rows.
    tuned
        Parameters that tuning found, as ``set_params`` takes them.
    asked
        ``factory``, ``family`` and ``arguments`` as the project named them when it was built.
    """

    factory: str | None
    family: str | None
    arguments: Mapping[str, Any]
    schema: Schema
    tuned: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)

    def build(self, seed: int) -> BaseEstimator:
        """Build the estimator, unfitted: seeded, and with no processes of its own.

        Raises
        ------
        PluginError
            When the factory raises or gives no estimator for the task, or one without what was tuned.
        """
        made = self._made()
        settled = {"random_state": seed, "n_jobs": None}
        for name, value in made.get_params(deep=True).items():
            setting = name.rpartition("__")[2]
            if setting in settled and not (setting == "random_state" and value is not None):
                made.set_params(**{name: settled[setting]})
        try:
            return made.set_params(**self.tuned)
        except ValueError as error:
            raise PluginError(
                f"what sklearn.tune found earlier, {dict(self.tuned)}, does not fit the estimator any more: "
                f"{' '.join(str(error).split())[:300]}; name its parts as before, or change model.arguments, and what "
                "was tuned is dropped"
            ) from error

    def _made(self) -> BaseEstimator:
        if self.factory is None:
            return families.build(self.family or families.DEFAULT, self.schema, self.arguments)
        make = load_object(self.factory, "model.factory")
        _check_arguments(self, make)
        try:
            made = make(**self.arguments)
        except Exception as error:  # the user's factory may raise anything
            raise PluginError(
                f"model.factory {self.factory!r} raised {type(error).__name__}: {' '.join(str(error).split())[:300]} "
                f"when called with {dict(self.arguments)}; mend model.arguments"
            ) from error
        fits = is_regressor if self.schema.task == "regression" else is_classifier
        if not isinstance(made, BaseEstimator) or not fits(made):
            raise PluginError(
                f"model.factory {self.factory!r} gave a {type(made).__name__}; it must return an unfitted estimator of "
                f"scikit-learn for {self.schema.task}"
            )
        return made


def _check_arguments(spec: Spec, make: Any) -> None:
    accepted = inspect.signature(make).parameters
    if any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        return
    for name in spec.arguments:
        if name not in accepted:
            raise PluginError(
                f"model.arguments.{name}: {spec.factory!r} has no such parameter; it has {', '.join(accepted)}."
                f"{nearest(name, accepted)}"
            )


@dataclass(frozen=True)
class Fitted:
    """A fitted estimator in memory, with what it was built from."""

    spec: Spec
    estimator: BaseEstimator

    @classmethod
    def load(cls, model: Model, factory: str | None = None) -> Fitted:
        """Read what :meth:`save` laid down.

        Parameters
        ----------
        factory
            The only factory that the file may name, or None for any.

        Raises
        ------
        ArtifactError
            When a file is missing, altered, or of another scikit-learn.
        """
        spec, version = read_spec(model, factory)
        return cls(spec, store.read(model.folder / ESTIMATOR, version))

    def save(self, folder: Path, facts: Mapping[str, object]) -> Model:
        """Lay the model down in ``folder``, with ``facts``."""
        store.write(self.estimator, folder / ESTIMATOR)
        described = {
            "version": VERSION,
            "sklearn": sklearn.__version__,
            "factory": self.spec.factory,
            "family": self.spec.family,
            "arguments": dict(self.spec.arguments),
            "tuned": dict(self.spec.tuned),
            "asked": dict(self.spec.asked),
            "schema": self.spec.schema.model_dump(mode="json"),
        }
        write_json(folder / SPEC, described)
        write_json(folder / FACTS, dict(facts))
        return Model.at(folder, FORMAT)

    def answer(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Return probabilities ``[rows, classes]`` in the schema's order of classes, or predictions ``[rows, 1]``."""
        return outputs_of(self.estimator, frame_of(self.spec.schema, inputs), self.spec.schema)

    def with_estimator(self, estimator: BaseEstimator) -> Fitted:
        """Return the model with another fitted estimator."""
        return replace(self, estimator=estimator)


def read_spec(model: Model, factory: str | None) -> tuple[Spec, str]:
    """Return what a stored model was built from, and the version of scikit-learn that fitted it; no code is run."""
    described = read_json(model.folder / SPEC)
    try:
        if described["version"] != VERSION:
            raise ArtifactError(
                f"{model.folder / SPEC} has version {described['version']}, this trimtab reads {VERSION}; upgrade it"
            )
        parts = {name: described[name] for name in (*ASKED, "tuned", "asked")}
        spec = Spec(**parts, schema=Schema.model_validate(described["schema"]))
        _check_types(spec)
    except (KeyError, TypeError, ValidationError) as error:
        raise ArtifactError(f"{model.folder / SPEC} is no spec of an estimator: {error!r}"[:500]) from error
    if factory is not None and spec.factory not in (None, factory):
        raise ArtifactError(
            f"the model in {model.folder} asks for the factory {spec.factory!r}, the project names {factory!r}: "
            "its files were altered, or model.factory was; set model.factory back, or begin a new project"
        )
    return spec, str(described.get("sklearn"))


def _check_types(spec: Spec) -> None:
    """Raise a TypeError for what no spec of ours holds."""
    if not isinstance(spec.factory, str | None):
        raise TypeError(f"factory {spec.factory!r}")
    if spec.family is not None and spec.family not in families.FAMILIES:
        raise TypeError(f"family {spec.family!r}")
    for name in ("arguments", "tuned", "asked"):
        if not isinstance(held := getattr(spec, name), Mapping) or (name == "asked" and set(held) != set(ASKED)):
            raise TypeError(f"{name} {held!r}")


def today(model: Model, job: Job, family: str | None = None) -> Spec:
    """Return what to fit anew from.

    That is what the parent was built from, tuned parameters and a family that an earlier round chose among them,
    unless the project asks for something else than it did then.

    Parameters
    ----------
    family
        To build instead.

    Raises
    ------
    ArtifactError
        When the file names a factory that the project does not: it is never called.
    """
    before, _ = read_spec(model, job.factory)
    asked = {name: job.training[name] for name in ASKED} if job.training else before.asked
    if family is not None:
        named = asked["family"] or (families.DEFAULT if asked["factory"] is None else None)
        arguments = asked["arguments"] if named == family else {}
        tuned = before.tuned if (before.family, before.arguments) == (family, arguments) else {}
        return Spec(None, family, arguments, job.schema, tuned, asked)
    if asked == before.asked:
        if before.factory not in (None, job.factory):
            raise ArtifactError(
                f"the model in {model.folder} asks for the factory {before.factory!r}, which the project does not "
                "name: its files were altered, or model.factory was; set model.factory back, or begin a new project"
            )
        return replace(before, schema=job.schema)
    return Spec(**asked, schema=job.schema, asked=asked)


def frame_of(schema: Schema, inputs: Arrays) -> pd.DataFrame:
    """Return encoded rows as an estimator reads them: numbers in float32, then texts, under the columns' names.

    Raises
    ------
    PluginError
        When the schema has a tensor.
    """
    coded = [c.name for c in schema.columns if c.coded]
    texts = [c.name for c in schema.columns if c.dtype == "text"]
    for column in schema.columns:
        if column.dtype == "tensor":
            raise PluginError(f"features.{column.name} is a tensor, and estimators read tables; leave it out")
    numbers = {name: inputs[NUMERIC_INPUT][:, at] for at, name in enumerate(coded)}
    return pd.DataFrame({**numbers, **{name: inputs[name][:, 0].astype(object) for name in texts}})


def outputs_of(estimator: BaseEstimator, frame: pd.DataFrame, schema: Schema) -> npt.NDArray[np.float32]:
    """Return an estimator's answers as they are served; a class that it never saw has probability 0.

    Raises
    ------
    PluginError
        When a classifier gives no probabilities.
    """
    if schema.task == "regression":
        return np.asarray(estimator.predict(frame), dtype=np.float32).reshape(len(frame), 1)
    if not hasattr(estimator, "predict_proba"):
        raise PluginError(
            f"{type(final(estimator)).__name__} gives no probabilities; "
            "wrap it in CalibratedClassifierCV, or take another"
        )
    return widened(np.asarray(estimator.predict_proba(frame), dtype=np.float32), estimator, schema)


def widened(known: npt.NDArray[np.float32], estimator: BaseEstimator, schema: Schema) -> npt.NDArray[np.float32]:
    """Put the columns of the classes that an estimator saw into those of all classes."""
    whole = np.zeros((len(known), len(schema.classes)), dtype=np.float32)
    whole[:, estimator.classes_] = known
    return whole


def final(estimator: BaseEstimator) -> BaseEstimator:
    """Return the last step of a pipeline, or the estimator itself."""
    return final(estimator.steps[-1][1]) if isinstance(estimator, Pipeline) else estimator


def preparation(estimator: BaseEstimator, frame: pd.DataFrame) -> Any:
    """Return rows as the last step of a fitted pipeline reads them."""
    if not isinstance(estimator, Pipeline):
        return frame
    prepared = estimator[:-1].transform(frame) if len(estimator.steps) > 1 else frame
    last = estimator.steps[-1][1]
    return preparation(last, prepared)


def described(model: Fitted) -> dict[str, Any]:
    """Return what is told of an estimator: its class, and its trees and their leaves where it has any."""
    told: dict[str, Any] = {"estimator": type(final(model.estimator)).__name__}
    trees = list(trees_of(final(model.estimator)))
    return told | ({"trees": len(trees), "leaves": sum(leaves_of(tree) for tree in trees)} if trees else {})


def trees_of(estimator: BaseEstimator) -> Iterator[Tree | TreePredictor]:
    """Yield every fitted tree of a tree, a forest or a boosting; none of any other estimator."""
    if hasattr(estimator, "_predictors"):
        yield from itertools.chain.from_iterable(estimator._predictors)
    elif isinstance(getattr(estimator, "tree_", None), Tree):
        yield estimator.tree_
    elif hasattr(estimator, "estimators_"):
        for member in np.asarray(estimator.estimators_, dtype=object).ravel():
            yield from trees_of(member)


def leaves_of(tree: Tree | TreePredictor) -> int:
    """Return the number of a tree's leaves."""
    return int(tree.n_leaves if isinstance(tree, Tree) else tree.get_n_leaf_nodes())
