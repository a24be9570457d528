"""Measuring models on a round's rows, and keeping what was measured, so that a crash costs no second measuring."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.artifact import Model, fill_folder, read_json, write_json
from trimtab.benchmark import Scores
from trimtab.data import Data, Role, Rows
from trimtab.intervals import Interval
from trimtab.metric import correctness
from trimtab.runtime import Runtime, Target
from trimtab.timing import Latency, race

__all__ = ["Bench", "keep", "read"]


@dataclass(frozen=True)
class Bench:
    """Measures models beside the champion on one target and one round's rows.

    Parameters
    ----------
    folder
        Where the scores are kept, one folder a model.
    runtime, target
        What loads the models, and how.
    champion
        What every model is timed beside.
    data, golden
        Rows by role; rows that must never be forgotten, or None.
    confidence
        Of the speed-up's interval.
    seed
        Of the order of the timings.
    """

    folder: Path
    runtime: Runtime
    target: Target
    champion: Model
    data: Data
    golden: Rows | None
    confidence: float
    seed: int

    def measure(self, key: str, model: Model) -> Scores:
        """Measure quality on judge, search and golden rows, speed beside the champion, and size; once a key.

        Raises
        ------
        ArtifactError
            When the model does not load.
        """
        place = self.folder / key
        if not place.is_dir():
            keep(place, self._measure(model))
        return read(place)

    def _measure(self, model: Model) -> Scores:
        session, reigning = (
            self.runtime.load(m, self.target.threads, self.target.batch) for m in (model, self.champion)
        )
        judged, searched = self.data.rows(Role.JUDGE), self.data.rows(Role.SEARCH)
        timed = judged if len(judged) else self.data.rows(Role.TRAIN)
        latency = race(
            reigning, {"it": session}, timed, batch=self.target.batch, confidence=self.confidence, seed=self.seed
        )
        return Scores(
            judged=correctness(session, judged),
            groups=judged.groups,
            latency=latency["it"],
            size_bytes=model.size_bytes,
            searched=float(correctness(session, searched).mean()) if len(searched) else 0.0,
            search_rows=len(searched),
            golden=correctness(session, self.golden) if self.golden is not None else np.zeros(0),
            golden_groups=self.golden.groups if self.golden is not None else np.zeros(0, np.uint64),
            parameters=model.facts.get("parameters"),
        )


ARRAYS = ("judged", "groups", "golden", "golden_groups")


def keep(folder: Path, scores: Scores) -> None:
    """Write scores into a folder, whole or not at all."""
    with fill_folder(folder) as draft:
        np.savez(draft / "rows.npz", **{name: getattr(scores, name) for name in ARRAYS})
        plain = {f.name: getattr(scores, f.name) for f in dataclasses.fields(scores) if f.name not in ARRAYS}
        write_json(draft / "scores.json", plain | {"latency": dataclasses.asdict(scores.latency)})


def read(folder: Path) -> Scores:
    """Read back what :func:`keep` wrote."""
    plain = read_json(folder / "scores.json")
    latency = plain.pop("latency")
    speedup = Interval(**latency.pop("speedup"))
    with np.load(folder / "rows.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in ARRAYS}
    return Scores(**plain, **arrays, latency=Latency(**latency, speedup=speedup))
