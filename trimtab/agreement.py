"""How much of its quality a model loses by answering otherwise, told by its own answers: no label is needed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["loss"]

Outputs = npt.NDArray[np.float32]


def loss(before: Outputs, after: Outputs) -> float:
    """Return how much of its quality a model loses by answering ``after`` instead of ``before``, as a fraction.

    Of probabilities ``[rows, classes]``: the share of right answers that is lost if the model's own
    probabilities are true. A row whose two best classes were equally likely costs nothing when it flips,
    and so this is far below the share of changed answers. Of numbers ``[rows, 1]``: the root mean square
    of the change over the standard deviation of the answers. An answer that is not finite counts as wrong.

    Examples
    --------
    >>> before = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    >>> loss(before, before[:, ::-1])
    0.25
    >>> numbers = np.array([[1.0], [3.0]], np.float32)
    >>> loss(numbers, numbers + 0.5)
    0.5
    """
    if before.shape[1] == 1:
        change = np.where(np.isfinite(after), after - before, np.inf).astype(np.float64)
        spread = float(before.std()) or 1.0
        return float(np.sqrt((change**2).mean()) / spread)
    rows = np.arange(len(before))
    chosen = before[rows, np.nan_to_num(after).argmax(axis=1)]
    chosen = np.where(np.isfinite(after).all(axis=1), chosen, 0.0)
    return round(float((before.max(axis=1) - chosen).mean(dtype=np.float64)), 9)
