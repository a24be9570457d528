"""Kill -9 at random moments of the demo, each followed by a start that completes; the champion must load in between.

No step of the search that was finished before a kill may be built again.

A second process asks the registry for the champion every few seconds all the while, fetches its files, checks their
digests and lets it predict.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from figures import save

from trimtab.journal import Journal
from trimtab_mlflow.registry import MlflowRegistry

TRIMTAB = Path(sys.executable).with_name("trimtab")


def champion_loads(folder: Path) -> bool | None:
    """Ask a process of its own (a connection would outlive the demo's folder): None where there is no champion yet."""
    home = folder / ".trimtab" / "digits"
    if not (home / "mlflow.db").is_file():
        return None
    asked = subprocess.run([sys.executable, __file__, "--look", str(home)], capture_output=True, text=True, check=False)
    if not (home / "mlflow.db").is_file():
        return None  # a new demo put the old one away meanwhile
    return {0: True, 3: None}.get(asked.returncode, False)


def look(home: Path) -> int:
    """Fetch the champion, check its digests, load it and let it predict; 0 when all went well, 3 without one."""
    registry = MlflowRegistry(
        f"sqlite:///{home / 'mlflow.db'}", model="digits", experiment="digits", artifacts=str(home / "artifacts")
    )
    number = registry.alias("champion")
    if number is None:
        return 3
    with tempfile.TemporaryDirectory() as place:
        package = registry.fetch(number, Path(place) / "package")
        session = onnxruntime.InferenceSession(package / "model" / "model.onnx")
        out = session.run(["probabilities"], {"image": np.zeros((2, 1, 32, 32), np.float32)})[0]
    return 0 if np.isfinite(out).all() else 1


def steps(folder: Path) -> list[str]:
    """Return the fingerprint of every step that the demo's journal says was built, each time that it was."""
    path = folder / ".trimtab" / "digits" / "journal.db"
    if not path.is_file():
        return []
    told = Journal(f"sqlite:///{path}", "digits").records("step")
    return [str(detail["fingerprint"]) for _, _, detail in told]


class Watcher(threading.Thread):
    """Asks for the champion all the while."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(daemon=True)
        self.folder, self.seconds = folder, seconds
        self.looks, self.failures = 0, 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(self.seconds):
            found = champion_loads(self.folder)
            self.looks += found is not None
            self.failures += found is False


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the demo in a process group of its own."""
    log = (folder / "log.txt").open("ab")
    return subprocess.Popen([TRIMTAB, "demo"], cwd=folder, stdout=log, stderr=log, start_new_session=True)


def one(folder: Path, moment: float) -> dict[str, Any]:
    """Start the demo, kill it after ``moment`` seconds, look at the champion, start it again and let it end."""
    process = start(folder)
    try:
        process.wait(moment)
        killed = False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed = True
    loads, before = champion_loads(folder), steps(folder)
    begin = time.perf_counter()
    code = start(folder).wait()
    after = steps(folder)
    status = json.loads(
        subprocess.run([TRIMTAB, "status", "--json"], cwd=folder, check=True, capture_output=True, text=True).stdout
    )
    return {
        "moment": moment,
        "killed": killed,
        "ended_before_with": process.returncode,
        "champion_loaded_after_kill": loads,
        "exit": code,
        "steps_before": len(before) if killed else 0,
        "steps": len(after),
        "steps_built_again": len(after) - len(set(after)),
        "seconds_again": time.perf_counter() - begin,
        "champion": status["aliases"].get("champion"),
        "versions": len(status["versions"]),
        "rounds": len(status["rounds"]),
        "windows": [w["finding"] for w in status["windows"]],
    }


def main() -> None:
    """Kill as often as asked, and keep what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=75.0, help="latest moment of a kill, seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.look is not None:
        sys.exit(look(given.look))
    draw = random.Random(given.seed)  # noqa: S311 (moments of a kill, no secrets)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        watcher = Watcher(folder, 10.0)
        watcher.start()
        runs = []
        for number in range(given.kills):
            run = one(folder, draw.uniform(0.5, given.longest))
            runs.append(run)
            print(number + 1, json.dumps(run), flush=True)
        watcher.stop.set()
        watcher.join()
    good = [r for r in runs if r["exit"] == 0 and r["champion"] == 2 and r["versions"] == 2 and r["rounds"] == 1]
    figures = {
        "kills": sum(r["killed"] for r in runs),
        "completed": len(good),
        "killed_between_steps": sum(0 < r["steps_before"] < r["steps"] for r in runs),
        "steps_built_again": sum(r["steps_built_again"] for r in runs),
        "champion_looked_at": watcher.looks,
        "champion_failed_to_load": watcher.failures + sum(r["champion_loaded_after_kill"] is False for r in runs),
        "runs": runs,
    }
    print({k: v for k, v in figures.items() if k != "runs"}, save("kill", figures, given.seed))


if __name__ == "__main__":
    main()
