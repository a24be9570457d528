"""Measuring models on a round's rows, and keeping what was measured, so that nothing is measured twice."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.artifact import Model, fill_folder, read_json, write_json
from trimtab.benchmark import Quality, Scores
from trimtab.candidate import Candidate
from trimtab.data import Data, Role, Rows
from trimtab.energy import Energy, Meter
from trimtab.entry import Glance
from trimtab.errors import ArtifactError
from trimtab.intervals import Interval
from trimtab.loadable import Loadable
from trimtab.metric import Answers, Metric, answer, score
from trimtab.runtime import Setup, Target
from trimtab.timing import Latency, compare, peak_memory

__all__ = ["Bench", "keep", "read"]

GLANCE = 0.3
"""Share of the seconds of a full timing that a first look takes."""


@dataclass(frozen=True)
class Bench:
    """Measures models beside the champion on one target and one round's rows.

    Parameters
    ----------
    folder
        Where the scores are kept, one folder a measurement, by everything that it follows from; other benches
        may keep theirs in it too.
    target
        Threads and batch of the calls.
    champion
        What every model is timed beside.
    data, golden
        Rows by role; rows that must never be forgotten, or None.
    metric
        Of quality.
    meter
        Of energy, or None.
    memory
        Whether to measure the peak memory.
    seconds
        Of timing for each model.
    factory
        The factory that the project names, for a runtime that rebuilds the network itself.
    seed
        Of the order of the timings.
    tell
        Is told the name and the seconds of each measurement whenever it is used, those that were taken before
        among them.
    """

    folder: Path
    target: Target
    champion: Loadable
    data: Data
    golden: Rows | None
    metric: Metric
    meter: Meter | None = None
    memory: bool = False
    seconds: float = 2.0
    factory: str | None = None
    seed: int = 0
    tell: Callable[[str, float], None] = lambda _name, _seconds: None

    def loadable(self, model: Model, setup: Setup) -> Loadable:
        """Return a model with the runtime that is to load it."""
        return Loadable(setup.runtime, model, setup.made_with(self.factory))

    def glance(self, candidate: Candidate, setup: Setup) -> Glance:
        """Take a first look: quality on the search rows, speed beside the champion, size; once a model and runtime.

        Raises
        ------
        ArtifactError
            When the model does not load.
        """
        place = self._of_look(candidate, setup)
        if not place.is_dir():
            begin = time.perf_counter()
            glance = self._glance(self.loadable(candidate.model, setup))
            with fill_folder(place) as draft:
                write_json(draft / "glance.json", _plain(dataclasses.asdict(glance)))
                write_json(draft / "took.json", {"seconds": time.perf_counter() - begin})
        self._tell_of(place)
        plain = read_json(place / "glance.json")
        quality = NAN if plain["quality"] is None else plain["quality"]
        return Glance(**{**plain, "quality": quality, "speedup": _interval(plain["speedup"])})

    def knows(self, candidate: Candidate, setup: Setup) -> bool:
        """Tell whether a look was taken before, so that another costs nothing."""
        return self._of_look(candidate, setup).is_dir()

    @functools.cached_property
    def _golden(self) -> str:
        """Tell golden rows from others."""
        if self.golden is None:
            return ""
        arrays = (*self.golden.inputs.values(), self.golden.labels)
        return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

    def _of_look(self, candidate: Candidate, setup: Setup) -> Path:
        return self._place(f"look-{candidate.fingerprint}-{setup.slug}", 0.95)

    def _place(self, key: str, confidence: float) -> Path:
        """Return where a measurement is kept: on other rows, beside another or in another way it is something else."""
        rows = (self.data.digest, self._golden, self.metric)
        calls = (self.target.threads, self.target.batch, self.seconds, self._calls(confidence), confidence)
        beside = (self.champion.key, self.memory, self.meter, self.seed, platform.node())
        return self.folder / f"{key}-{hashlib.sha256(repr((rows, calls, beside)).encode()).hexdigest()[:16]}"

    def _tell_of(self, place: Path) -> None:
        self.tell(place.name, float(read_json(place / "took.json")["seconds"]))

    def _glance(self, model: Loadable) -> Glance:
        searched = self.data.rows(Role.SEARCH)
        answers = answer(model.load(1, self.target.batch), searched)
        timed = searched if len(searched) else self.data.rows(Role.TRAIN)
        latency = self._time(model, timed, self.seconds * GLANCE, 0.95)
        return Glance(
            score(self.metric, answers), len(searched), latency.p50_ms, latency.speedup, model.model.size_bytes
        )

    def measure(self, model: Loadable, confidence: float) -> Scores:
        """Measure quality on judge, search and golden rows, speed beside the champion, and what it costs; once a model.

        Parameters
        ----------
        confidence
            Of the speed-up's interval.

        Raises
        ------
        ArtifactError
            When the model does not load.
        """
        place = self._place(model.key, confidence)
        if not place.is_dir():
            begin = time.perf_counter()
            scores = self._measure(model, confidence)
            keep(place, scores, time.perf_counter() - begin)
        self._tell_of(place)
        return read(place)

    def _measure(self, model: Loadable, confidence: float) -> Scores:
        session = model.load(1, self.target.batch)
        judged, searched = (answer(session, self.data.rows(role)) for role in (Role.JUDGE, Role.SEARCH))
        golden = None if self.golden is None else answer(session, self.golden)
        rows = next(r for role in (Role.JUDGE, Role.SEARCH, Role.TRAIN) if len(r := self.data.rows(role)))
        threads, batch = self.target.threads, self.target.batch
        return Scores(
            judged=judged,
            quality=Quality.of(self.metric, judged, searched, golden),
            latency=self._time(model, rows, self.seconds, confidence, self._calls(confidence)),
            size_bytes=model.model.size_bytes,
            golden=golden,
            parameters=model.model.facts.get("parameters"),
            multiply_adds=model.model.facts.get("multiply_adds"),
            peak_mb=peak_memory(model, rows, threads=threads, batch=batch) if self.memory else None,
        )

    def _calls(self, confidence: float) -> int:
        """Return the calls without which the target's bound on the 99th percentile could not be judged."""
        return 0 if self.target.max_p99_ms is None else math.ceil(math.log(1 - confidence) / math.log(0.99))

    def _time(self, model: Loadable, rows: Rows, seconds: float, confidence: float, calls: int = 0) -> Latency:
        found = compare(
            self.champion,
            {"it": model},
            rows,
            threads=self.target.threads,
            batch=self.target.batch,
            seconds=seconds,
            calls=calls,
            confidence=confidence,
            meter=self.meter,
            seed=self.seed,
        )["it"]
        if isinstance(found, ArtifactError):
            raise found
        return found


def keep(folder: Path, scores: Scores, seconds: float = 0.0) -> None:
    """Write scores, and the seconds that it took to get them, into a folder, whole or not at all."""
    with fill_folder(folder) as draft:
        for name in ("judged", "golden"):
            answers: Answers | None = getattr(scores, name)
            if answers is not None:
                arrays = {f.name: getattr(answers, f.name) for f in dataclasses.fields(answers)}
                np.savez(draft / f"{name}.npz", **{k: v for k, v in arrays.items() if v is not None})
        told = dataclasses.asdict(dataclasses.replace(scores, judged=_NONE, golden=None))
        write_json(draft / "scores.json", _plain({k: v for k, v in told.items() if k not in ("judged", "golden")}))
        write_json(draft / "took.json", {"seconds": seconds})


_NONE = Answers(np.zeros((0, 1), np.float32), np.zeros(0), np.zeros(0, np.uint64))


def _plain(value: Any) -> Any:
    """Return the value with null in place of what JSON has no number for."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


NAN = float("nan")


def _interval(plain: Mapping[str, float | None]) -> Interval:
    return Interval(**{k: NAN if v is None else v for k, v in plain.items()})


def read(folder: Path) -> Scores:
    """Read back what :func:`keep` wrote."""
    plain = read_json(folder / "scores.json")
    quality, latency = plain.pop("quality"), plain.pop("latency")
    energy = latency.pop("energy")
    judged = _interval(quality.pop("judged"))
    absent = {"searched": NAN, "utility": -math.inf, "error": math.inf}
    figures: dict[str, Any] = {k: absent.get(k) if v is None else v for k, v in quality.items()}
    return Scores(
        **plain,
        judged=_answers(folder / "judged.npz"),
        golden=_answers(folder / "golden.npz") if (folder / "golden.npz").is_file() else None,
        quality=Quality(**figures, judged=judged),
        latency=Latency(
            **{**latency, "speedup": _interval(latency["speedup"])},
            energy=None if energy is None else Energy(**energy),
        ),
    )


def _answers(path: Path) -> Answers:
    with np.load(path, allow_pickle=False) as file:
        return Answers(**{name: file[name] for name in file.files})
