"""Models to be timed, whose work is known."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.data import Rows
from trimtab.window import Arrays

ROWS = Rows(
    {"numeric": np.arange(60, dtype=np.float32).reshape(30, 2)},
    np.arange(30) % 2,
    np.arange(30, dtype=np.uint64),
)


@dataclasses.dataclass
class Works:
    """Works for as many turns of a loop as told: time that a busy machine stretches for both alike."""

    turns: int = 300
    batches: list[int] = dataclasses.field(default_factory=list)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        return {"probabilities": self.predict(inputs)}

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        self.batches.append(len(inputs["numeric"]))
        for _ in range(self.turns):
            pass
        return np.tile(np.array([[0.2, 0.8]], np.float32), (len(inputs["numeric"]), 1))
