"""A runtime whose models behave as their files tell; light to import, for the processes that only time."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trimtab.artifact import Model, read_json
from trimtab.errors import ArtifactError
from trimtab.window import Arrays


@dataclass(frozen=True)
class Told:
    """Takes ``patience`` seconds to load."""

    patience: float = 0.0

    name: ClassVar[str] = "told"
    takes: ClassVar[tuple[str, ...]] = ("told",)

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> "Tale":
        tale = read_json(model.folder / "tale.json")
        time.sleep(self.patience)
        print("a library that talks")
        if tale.get("broken"):
            raise ArtifactError("its file is broken")
        return Tale(model.folder, tale)


class Tale:
    """Works for ``turns`` of a loop, holds and takes memory, dies, or insists on what it is asked."""

    def __init__(self, folder: Path, tale: dict[str, Any]) -> None:
        self.tale = tale
        self.held = np.ones(int(1e6 * tale.get("holds_mb", 0)), np.uint8)
        (folder / f"{os.getpid()}.pid").touch()

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        return {"probabilities": self.predict(inputs)}

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        if self.tale.get("dies"):
            os.write(2, b"no such instruction\n")
            os._exit(7)
        if "says" in self.tale and inputs["word"][0, 0] != self.tale["says"]:
            raise ArtifactError(f"it was told {inputs['word'][0, 0]!r}")
        for _ in range(self.tale.get("turns", 2000)):
            pass
        np.ones(int(1e6 * self.tale.get("takes_mb", 0)), np.uint8)
        return np.zeros((1, 2), np.float32)
