"""A process that holds one model and times it when asked: ``python -m trimtab.worker``, and the end that asks.

Both talk in lines of JSON over the worker's standard input and output; inputs lie in a file.
"""

from __future__ import annotations

import gc
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self, cast

import numpy as np

from trimtab.discover import find
from trimtab.errors import ArtifactError
from trimtab.loadable import Loadable
from trimtab.memory import growth
from trimtab.stopwatch import Burst, Feed, Stopwatch

__all__ = ["Worker", "keep_feeds"]

PATIENCE = 600.0
"""Seconds after which a worker that says nothing is given up: torch.compile may take minutes to load."""


@contextmanager
def keep_feeds(feeds: Sequence[Feed]) -> Iterator[Path]:
    """Keep the inputs of calls in a file that workers read, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        path = Path(folder) / "feeds.npz"
        named: dict[str, Any] = {
            f"{at}.{name}": values for at, feed in enumerate(feeds) for name, values in feed.items()
        }
        np.savez(path, **named)
        yield path


def read_feeds(path: Path) -> list[Feed]:
    """Read back what :func:`keep_feeds` wrote."""
    feeds: dict[int, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            at, _, name = key.partition(".")
            feeds.setdefault(int(at), {})[name] = file[key]
    return [feeds[at] for at in sorted(feeds)]


class Worker:
    """The asking end; its process lives as long as its block.

    Parameters
    ----------
    loadable
        What the worker loads.
    feeds
        File of :func:`keep_feeds`.
    threads, batch
        Threads that one call may use, and rows in one.
    """

    def __init__(self, loadable: Loadable, feeds: Path, threads: int, batch: int) -> None:
        self._given = {"threads": threads, "batch": batch, **loadable.to_json()}
        self._what = f"{loadable.model.folder} in {loadable.runtime}"
        self._feeds = feeds

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, and no word of a user)
            [sys.executable, "-m", "trimtab.worker", str(self._feeds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):  # it died before it read what it was asked
            self._process.communicate()
        self._said.close()

    def load(self) -> float:
        """Load the model afresh in the worker, make its first call, and return the seconds it took."""
        return float(self._ask({"do": "load", **self._given})["seconds"])

    def time(self, ms: float) -> Burst:
        """Time calls in a row for ``ms`` milliseconds."""
        answer = self._ask({"do": "time", "ms": ms})
        return Burst(np.array(answer["ms"]), answer["calls"], answer["cpu_seconds"])

    def peak(self, calls: int) -> float:
        """Return the megabytes that loading and ``calls`` calls add to the worker's memory at most."""
        return float(self._ask({"do": "peak", "calls": calls, **self._given})["mb"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        with suppress(BrokenPipeError):  # it died: there is nothing to read either, and its last words tell why
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        if not select.select([stdout], [], [], PATIENCE)[0]:
            raise ArtifactError(f"{self._what}: its worker said nothing for {PATIENCE:g} s; try another runtime")
        if not (line := stdout.readline()):
            raise ArtifactError(f"{self._what}: its worker died ({self._last_words()}); try another runtime")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ArtifactError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait(10)
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        return f"exit code {code}" + (f": {lines[-1][:300]}" if lines else "")


class Desk:
    """The answering end."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self._watch: Stopwatch | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        if request["do"] == "time":
            return self._time(request["ms"])
        find("runtimes", request["runtime"])
        if request["do"] == "load":
            begin = time.perf_counter()
            self._load(request, 1)
            return {"seconds": time.perf_counter() - begin}
        gc.collect()
        return {"mb": growth(lambda: self._load(request, request["calls"])) / 1e6}

    def _load(self, request: Mapping[str, Any], calls: int) -> None:
        session = Loadable.from_json(request).load(request["threads"], request["batch"])
        self._watch = Stopwatch(session, self._feeds)
        for _ in range(calls):
            self._watch.time(0)

    def _time(self, ms: float) -> dict[str, Any]:
        if self._watch is None:
            raise ArtifactError("nothing is loaded")
        burst = self._watch.time(ms)
        return {"ms": burst.ms.tolist(), "calls": burst.calls, "cpu_seconds": burst.cpu_seconds}


def main() -> None:
    """Answer until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    desk = Desk(read_feeds(Path(sys.argv[1])))
    for line in sys.stdin:
        try:
            answer = desk.answer(json.loads(line))
        except Exception as error:  # whatever the runtime raises is the answer
            answer = {"error": str(error) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
