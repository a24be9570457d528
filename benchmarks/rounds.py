"""Ten rounds on a stream that does not move: nothing may erode, grow, or be promoted without a proven gain.

Each round is asked for by hand after one more quiet window. The labels carry noise, so that no model is right about
every row and chance has something to offer the gate.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import yaml
from figures import save
from rich.console import Console
from rich.table import Table

from trimtab import cli
from trimtab.cli import terminal
from trimtab.history import Round
from trimtab.journal import Journal

NUMBERS = ("width", "height", "weight", "age")
SORTS = ("oak", "ash", "elm", "fir")
NOISE = 0.08
FRESH = 20_000
MAX_TOTAL_DROP = 0.02
ROUNDS = 10


def rows(count: int, seed: int) -> pd.DataFrame:
    """Return rows of the one and only distribution; one label in twelve is wrong."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, len(NUMBERS)))
    sort = rng.integers(0, len(SORTS), count)
    score = values[:, 0] + values[:, 1] + np.where(sort < 2, values[:, 2], -0.5) + 0.5 * values[:, 3] ** 2
    label = (score > 0) ^ (rng.random(count) < NOISE)
    frame = pd.DataFrame(values, columns=list(NUMBERS))
    return frame.assign(sort=np.array(SORTS)[sort], good=label.astype(int), id=[f"{seed}-{i}" for i in range(count)])


def set_up(folder: Path, window: int, epochs: int, candidates: int, seed: int) -> Path:
    """Write the project file and the rows before window 1, and return the file."""
    smallest = [
        ("finetune", {"epochs": epochs}),
        ("prune.channel", {"ratio": 0.5}),
        ("distill", {"epochs": epochs}),
        ("export", {}),
    ]
    settings = {
        "name": "quiet",
        "seed": seed,
        "home": str(folder / "home"),
        "source": {"kind": "csv", "path": str(folder / "rows-*.csv"), "label": "good", "id": "id"},
        "features": {**{name: {} for name in NUMBERS}, "sort": {"kind": "categorical"}},
        "window": {"every": window, "start": 2 * window},
        "data": {"train": "last 2 windows", "split": {"train": 0.4, "calibration": 0.05, "search": 0.05, "judge": 0.5}},
        "model": {
            "factory": "trimtab_torch.networks:Mlp",
            "arguments": {"hidden": [48, 48]},
            "epochs": 20,
            "learning_rate": 0.2,
        },
        "trigger": {"on": []},
        "optimize": {
            "techniques": [*({name: settings} for name, settings in smallest), "quantize.static"],
            "recipes": [{"steps": [{"technique": name, "settings": settings} for name, settings in smallest]}],
            "candidates": candidates,
        },
        "gate": {"max_quality_drop": 0.02, "max_total_drop": MAX_TOTAL_DROP, "max_slowdown": 1.0},
    }
    config = folder / "quiet.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    rows(2 * window, 1000 * seed).to_csv(folder / "rows-00.csv", index=False)
    return config


def command(*arguments: str) -> None:
    """Run one command in this process; one that fails ends this one."""
    try:
        cli.main(list(arguments))
    except SystemExit as end:
        if end.code:
            raise


def follow(
    folder: Path, window: int, epochs: int, candidates: int, seed: int, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Deliver a window and ask for a round, again and again; return what each round left."""
    config = set_up(folder, window, epochs, candidates, seed)
    fresh = rows(FRESH, 1000 * seed + 999)
    left = []
    for number in range(1, rounds + 1):
        rows(window, 1000 * seed + number).to_csv(folder / f"rows-{number:02d}.csv", index=False)
        command("run", str(config), "--direct", "--json")
        command("optimize", str(config), "--direct", "--json", "--reason", "test")
        left.append(look(folder / "home", fresh))
    return left


def look(home: Path, fresh: pd.DataFrame) -> dict[str, Any]:
    """Return what the newest round did and what the champion is worth now."""
    journal = Journal(f"sqlite:///{home / 'journal.db'}", "quiet")
    asked, versions = journal.rounds()[-1], home / "versions"
    champion = journal.promotions()[-1].version
    won = next((c for c in asked.detail["candidates"] if c["won"]), None)
    facts = json.loads((versions / str(champion) / "parent" / "facts.json").read_text())
    return {
        "cause": asked.cause,
        "reasons": list(asked.reasons),
        "outcome": asked.outcome,
        "winner": won["recipe"] if won is not None else None,
        "gains": proven(asked, won, versions) if won is not None else {},
        "champion": champion,
        "parent_bytes": (versions / str(champion) / "parent" / "model.safetensors").stat().st_size,
        "parent_parameters": facts["parameters"],
        "size_bytes": model_bytes(versions, champion),
        "anchor_accuracy": accuracy(versions / "1", fresh),
        "champion_accuracy": accuracy(versions / str(champion), fresh),
    }


def proven(asked: Round, won: dict[str, Any], versions: Path) -> dict[str, list[float]]:
    """Return each gain that the verdict names: the interval of its difference, which must lie above no change (0)."""
    metrics, reasons = won["metrics"], won["reasons"]
    named = reasons[0].removeprefix("superior in ").split(" and ") if reasons[0].startswith("superior in ") else []
    rise = re.fullmatch(r"accuracy rose by \S+ \((\S+) to (\S+)\), from \S+ to \S+, on \d+ rows", reasons[1])
    saved = 1 - metrics["size_bytes"] / model_bytes(versions, asked.detail["champion"])
    intervals = {
        "quality": [float(rise[1]), float(rise[2])] if rise is not None else [0.0, 0.0],
        "speed": [metrics["speedup_low"] - 1, metrics["speedup_high"] - 1],
        "size": [saved, saved],
    }
    return {name: intervals[name] for name in named}


def model_bytes(versions: Path, number: int) -> int:
    """Return the size of what a version serves, in bytes."""
    return (versions / str(number) / "model" / "model.onnx").stat().st_size


def accuracy(package: Path, fresh: pd.DataFrame) -> float:
    """Return the share of rows that a version is right about."""
    session = onnxruntime.InferenceSession(package / "model" / "model.onnx")
    feed = {"numeric": fresh[list(NUMBERS)].to_numpy(np.float32), "sort": fresh[["sort"]].to_numpy(dtype=object)}
    probabilities = np.asarray(session.run(["probabilities"], feed)[0])
    return float((probabilities.argmax(axis=1) == fresh["good"]).mean())


def main() -> None:
    """Print a table and keep the figures."""
    seed = 0
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        console = Console()
        terminal.out.file, terminal.err.file = nowhere, nowhere
        left = follow(Path(folder), window=2000, epochs=5, candidates=5, seed=seed)
    table = Table("", "outcome", "serves", "proven gain", "parent B", "model B", "accuracy", "anchor's")
    for number, r in enumerate(left, 1):
        table.add_row(
            str(number),
            r["outcome"],
            f"v{r['champion']}",
            ", ".join(f"{name} {low:+.1%} to {high:+.1%}" for name, (low, high) in r["gains"].items()),
            str(r["parent_bytes"]),
            str(r["size_bytes"]),
            f"{r['champion_accuracy']:.4f}",
            f"{r['anchor_accuracy']:.4f}",
        )
    console.print(table)
    worst = max(r["anchor_accuracy"] - r["champion_accuracy"] for r in left)
    figures = {"rounds": left, "largest_drop_against_the_anchor": worst, "max_total_drop": MAX_TOTAL_DROP}
    console.print(f"largest drop against the anchor on {FRESH} fresh rows: {worst:.4f}", save("rounds", figures, seed))


if __name__ == "__main__":
    main()
