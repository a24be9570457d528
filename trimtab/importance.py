"""How much each column matters to a model: what becomes worse, or other, when the column's values are shuffled."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trimtab import champion
from trimtab.artifact import read_json, write_json
from trimtab.data import Rows
from trimtab.errors import ArtifactError
from trimtab.metric import Metric, answer, score
from trimtab.monitor import Sample
from trimtab.parts import Parts
from trimtab.runtime import Session
from trimtab.window import NUMERIC_INPUT, Arrays, Schema, arrived

__all__ = ["importance", "of_version"]

MOST_ROWS = 2000
FEWEST_LABELS = 50
SHUFFLES = 3

Floats = npt.NDArray[np.float64]


def importance(session: Session, schema: Schema, reference: Sample, metric: Metric) -> dict[str, float]:
    """Return each column's share of what the model's answers rest on; the shares sum to 1.

    The values of one column are shuffled among the rows, which leaves their distribution as it was and
    takes away what they say. With labels a column's importance is by how much the metric gets worse;
    without, or where no column makes it worse, by how much the outputs change. Permutation importance as
    of Breiman (2001), the mean over three shuffles that are the same at every call.

    Parameters
    ----------
    session
        The model.
    schema
        Its columns. A tensor is one column: its cells are shuffled as a whole.
    reference
        Encoded rows that the model was not fitted to. At most 2,000 of them are drawn; labels count where at
        least 50 of these have one.
    metric
        What becomes worse.

    Returns
    -------
    dict
        Shares by column, in the schema's order. Equal ones where the model heeds no column, or there is no
        row to tell by.

    Notes
    -----
    Two columns that say the same share what they are worth to the model between them. It tells what the model
    relies on, not what the label depends on.

    References
    ----------
    L. Breiman: Random Forests. Machine Learning 45 (2001); A. Fisher, C. Rudin, F. Dominici: All Models are
    Wrong, but Many are Useful. Journal of Machine Learning Research 20 (2019).

    Examples
    --------
    >>> import pandas as pd
    >>> from trimtab.metric import Mae
    >>> from trimtab.window import Feature
    >>> class Sum:
    ...     def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
    ...         return (3 * inputs["numeric"][:, :1] + inputs["numeric"][:, 1:2]).astype(np.float32)
    ...     def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
    ...         return {"predictions": self.predict(inputs)}
    >>> frame = pd.DataFrame(np.random.default_rng(0).normal(size=(500, 3)), columns=["a", "b", "idle"])
    >>> schema = Schema.freeze({name: Feature() for name in frame}, frame)
    >>> rows = Sample(schema, frame, inputs=schema.encode(frame))
    >>> {name: round(share, 2) for name, share in importance(Sum(), schema, rows, Mae()).items()}
    {'a': 0.76, 'b': 0.24, 'idle': 0.0}
    """
    names = schema.names
    if len(names) == 1 or not len(reference) or not reference.inputs:
        return dict.fromkeys(names, 1 / len(names)) if names else {}
    drawn = np.sort(np.random.default_rng(0).permutation(len(reference))[:MOST_ROWS])
    labels = reference.labels if reference.labels is not None else np.full(len(reference), -1, dtype=np.int64)
    rows = Rows({k: v[drawn] for k, v in reference.inputs.items()}, labels[drawn], drawn.astype(np.uint64))
    worse, change = _by_column(session, schema, rows, metric)
    for found in (worse, change):
        total = float(found.sum())
        if total > 0 and math.isfinite(total):
            return dict(zip(names, (found / total).tolist(), strict=True))
    return dict.fromkeys(names, 1 / len(names))


def _by_column(session: Session, schema: Schema, rows: Rows, metric: Metric) -> tuple[Floats, Floats]:
    """Return by how much the metric gets worse and by how much the outputs change ``[columns]``."""
    before = answer(session, rows)
    labelled = int(arrived(rows.labels).sum()) >= FEWEST_LABELS
    way = 1.0 if metric.larger_is_better else -1.0
    worse, change = np.zeros((2, len(schema.columns)))
    for place, inputs in _shuffled(schema, rows.inputs):
        after = answer(session, Rows(inputs, rows.labels, rows.groups))
        distance = np.abs(after.outputs.astype(np.float64) - before.outputs).sum(axis=1)
        change[place] += float(np.where(np.isfinite(distance), distance, 0.0).mean()) / SHUFFLES
        if labelled:
            worse[place] += way * (score(metric, before) - score(metric, after)) / SHUFFLES
    return np.maximum(worse, 0.0), change


def _shuffled(schema: Schema, inputs: Arrays) -> Iterator[tuple[int, Arrays]]:
    """Yield a column's place and the inputs with its values shuffled, several times for each column."""
    coded = [c.name for c in schema.columns if c.coded]
    rows = len(next(iter(inputs.values())))
    for place, column in enumerate(schema.columns):
        draw = np.random.default_rng([place, rows])
        for _ in range(SHUFFLES):
            order = draw.permutation(rows)
            if column.coded:
                numbers = inputs[NUMERIC_INPUT].copy()
                at = coded.index(column.name)
                numbers[:, at] = numbers[order, at]
                yield place, {**inputs, NUMERIC_INPUT: numbers}
            else:
                yield place, {**inputs, column.name: inputs[column.name][order]}


def of_version(parts: Parts, version: int) -> dict[str, float]:
    """Return the :func:`importance` of a version's columns on its reference, computed once and kept in the home.

    Raises
    ------
    ArtifactError
        When it was not computed before, and the version's files are missing or altered.
    """
    path = parts.folder / "sketches" / f"v{version}" / "importance.json"
    if path.is_file():
        try:
            return {str(name): float(share) for name, share in read_json(path).items()}
        except (ArtifactError, AttributeError, TypeError, ValueError):  # a torn or altered file is computed anew
            pass
    serving = champion.load(parts, version)
    found = importance(serving.session, serving.schema, serving.reference, parts.metric)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found
