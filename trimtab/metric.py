"""What quality means: how right a model's answers are on labelled rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trimtab.data import Rows
from trimtab.runtime import Session

__all__ = ["correctness"]


def correctness(session: Session, rows: Rows, batch: int = 256) -> npt.NDArray[np.float64]:
    """Return 1 for each row whose most probable class is its label, else 0 (NaN output is never right)."""
    right = np.zeros(len(rows))
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        probabilities = session.predict({k: v[part] for k, v in rows.inputs.items()})
        sane = np.isfinite(probabilities).all(axis=1)
        right[part] = (probabilities.argmax(axis=1) == rows.labels[part]) & sane
    return right
