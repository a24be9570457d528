"""Whether the intervals of speed can be believed: equal copies must not be told apart, 10 % slower must be found.

Each time a model is timed beside the champion there are two rivals in the same go: another copy of the champion,
and one that takes 10 % longer, on a machine as it is and while another process loads one of its cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from figures import save

from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError
from trimtab.intervals import Interval
from trimtab.loadable import Loadable
from trimtab.runtime import Session
from trimtab.technique import Job
from trimtab.timing import compare
from trimtab.window import Arrays, Feature, Schema
from trimtab_torch.classifier import Classifier
from trimtab_torch.export import Export

CONFIDENCE = 0.95
SLOWED = 0.10


@dataclass(frozen=True)
class Case:
    """What is timed: sides of the images, channels of the stages, rows of a call, threads."""

    side: int
    widths: tuple[int, ...]
    batch: int
    threads: int = 1


CASES = {
    "resnet_batch1": Case(32, (32, 64, 128), 1),
    "tiny_batch1": Case(8, (8, 16), 1),
    "resnet_batch32": Case(32, (32, 64, 128), 32),
    "resnet_2threads": Case(32, (32, 64, 128), 1, 2),
}


class Slow:
    """A session whose calls take longer by a share of what they take undisturbed, waiting busily."""

    def __init__(self, session: Session, feed: Arrays) -> None:
        self._session = session
        times: list[int] = []
        end = time.perf_counter() + 0.02
        while len(times) < 4 or time.perf_counter() < end:
            begin = time.perf_counter_ns()
            session.predict(feed)
            times.append(time.perf_counter_ns() - begin)
        self._more = int(SLOWED * np.quantile(times, 0.25))

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Predict, and wait."""
        answer = self._session.predict(inputs)
        end = time.perf_counter_ns() + self._more
        while time.perf_counter_ns() < end:
            pass
        return answer

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return all outputs; nobody times that."""
        return self._session.run(inputs)


@dataclass(frozen=True)
class SlowLoadable(Loadable):
    """Loads a model slowed; only in this process."""

    side: int = 0

    def load(self, threads: int, batch: int) -> Session:
        """Load it."""
        return Slow(super().load(threads, batch), images(batch, self.side))


def images(count: int, side: int) -> dict[str, npt.NDArray[np.float32]]:
    """Draw images."""
    return {"image": np.random.default_rng(0).normal(size=(count, 1, side, side)).astype(np.float32)}


def build(root: Path, case: Case) -> tuple[Loadable, Rows]:
    """Export a network as it is before any training; weights make no call slower."""
    frame = pd.DataFrame({"image": [i.ravel() for i in images(64, case.side)["image"]], "y": [0, 1] * 32})
    schema = Schema.freeze({"image": Feature(kind="tensor", shape=(1, case.side, case.side))}, frame, label="y")
    rows = Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(64, dtype=np.uint64))
    data = Data.write(root / "data", {Role.TRAIN: rows})
    jobs = [Job(root / name, 0, schema) for name in ("float", "onnx")]
    for job in jobs:
        job.folder.mkdir()
    trainer = Classifier("trimtab_torch.networks:SmallResNet", {"widths": list(case.widths)})
    return Loadable("onnxruntime", Export().apply(trainer.draft(rows.inputs, jobs[0]), data, jobs[1])), rows


@contextmanager
def loaded(wanted: bool) -> Iterator[None]:
    """Keep one core busy meanwhile."""
    if not wanted:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def ask(case: Case, times: int, seconds: float, seed: int) -> dict[str, Any]:
    """Time as often as asked, and count what the intervals say."""
    with tempfile.TemporaryDirectory() as place:
        model, rows = build(Path(place), case)
        slow = SlowLoadable(model.runtime, model.model, side=case.side)
        rivals = {"copy": model} | ({"slow": slow} if case.threads == 1 else {})
        found: dict[str, list[Any]] = {name: [] for name in rivals}
        for number in range(times):
            timed = compare(
                model,
                rivals,
                rows,
                threads=case.threads,
                batch=case.batch,
                seconds=seconds,
                confidence=CONFIDENCE,
                seed=seed + number,
            )
            for name, latency in timed.items():
                if isinstance(latency, ArtifactError):
                    raise latency
                found[name].append(latency)
    return {"times": times, "load_average": os.getloadavg()[0]} | {
        f"{name}_{key}": value for name, latencies in found.items() for key, value in count(latencies).items()
    }


def count(latencies: list[Any]) -> dict[str, Any]:
    """Count the intervals that exclude 1, and say how wide they are."""
    speedups: list[Interval] = [latency.speedup for latency in latencies]
    return {
        "faster": sum(s.low > 1 for s in speedups),
        "slower": sum(s.high < 1 for s in speedups),
        "contended": sum(latency.contended for latency in latencies),
        "median_speedup": float(np.median([s.value for s in speedups])),
        "median_width": float(np.median([(s.high - s.low) / s.value for s in speedups])),
        "p50_ms": float(np.median([latency.p50_ms for latency in latencies])),
    }


def main() -> None:
    """Ask in every case, with and without load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one model, half a second each; 8 minutes")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be repeated")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seconds", type=float, help="of each duel")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cases = given.case or (["resnet_batch1"] if given.quick else list(CASES))
    seconds = given.seconds or (0.5 if given.quick else 2.0)
    named = "-".join(["trust", *(["quick"] if given.quick else []), *(given.case or [])])
    figures: dict[str, Any] = {"confidence": CONFIDENCE, "slowed": SLOWED, "seconds": seconds}
    for name in cases:
        for busy in (False, True):
            with loaded(busy):
                answers = ask(CASES[name], given.times, seconds, given.seed)
            told_apart = answers["copy_faster"] + answers["copy_slower"]
            answers["copies_told_apart"] = told_apart / given.times
            if "slow_slower" in answers:
                answers["slowed_found"] = answers["slow_slower"] / given.times
            figures[f"{name}_{'loaded' if busy else 'alone'}"] = answers
            print(name, "beside a busy process" if busy else "alone", answers, flush=True)
            print(save(named, figures, given.seed), flush=True)  # at each step: the whole takes more than an hour


if __name__ == "__main__":
    main()
