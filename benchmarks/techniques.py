"""What every installed technique gives alone, at its defaults: accuracy, speed in each runtime, bytes, minutes.

Each is placed in the shortest recipe that shows it, and compared with the float network that it began with, on rows
that nothing was fitted to, in the same runtime. What departs from that network is shown with recovery after it too.
Figures are written as they come; a second run takes up where the first stopped, on the same network and rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import blocks
import torch
from figures import kept, save
from gained import head, lines, refusals, sentences
from grounds import CASES, Ground, Size, size_of, told
from placing import abouts, placed
from rich.console import Console
from rich.table import Table
from seeded import plain

from trimtab import discover
from trimtab.benchmark import CONFIDENCE
from trimtab.benchmark import compare as change
from trimtab.errors import ArtifactError, OutOfTimeError, SettingsError, TrimtabError, nearest
from trimtab.loadable import Loadable
from trimtab.metric import Accuracy, answer, quality
from trimtab.recipe import Recipe
from trimtab.timing import compare

BATCHES = (1, 32)
MOST_WORDS = 240
Figures = dict[str, Any]


def measure(ground: Ground, recipe: Recipe, size: Size) -> Figures:
    """Build a recipe, and compare what it gives with the float network in every runtime that serves it."""
    until = time.monotonic() + 60 * size.minutes
    gives = ground.known[recipe.steps[-1].technique].gives
    try:
        built = ground.kitchen.build(recipe, (gives,), deadline=until)
    except TrimtabError as error:
        return {"refused": _short(error), "late": isinstance(error, OutOfTimeError)}
    found: Figures = {"seconds": built.seconds, "effort": sum(step.effort for step in built.steps), "runtimes": {}}
    for runtime in ground.floats:
        try:
            model = ground.loadable(recipe, runtime)
            found["runtimes"][runtime] = beside(ground, model, size)
        except SettingsError:  # the runtime takes other formats
            continue
        except Exception as error:  # a runtime may raise anything of a model that it cannot run, and others go on
            found["runtimes"][runtime] = {"refused": _short(error)}
    return found


def beside(ground: Ground, model: Loadable, size: Size) -> Figures:
    """Compare a model with the float network in its runtime."""
    base = ground.floats[model.runtime]
    said = answer(model.load(1, 256), ground.judge)
    return {
        "accuracy": plain(change(Accuracy(), said, ground.answers[model.runtime], CONFIDENCE).gain),
        "size_bytes": model.model.size_bytes,
        "size_ratio": model.model.size_bytes / base.model.size_bytes,
        "speed": {str(batch): timed(ground, model, batch, size.seconds) for batch in BATCHES},
    }


def timed(ground: Ground, model: Loadable, batch: int, seconds: float) -> Figures:
    """Time a model in turn with the float network.

    Raises
    ------
    ArtifactError
        When the model cannot be timed.
    """
    base, seed = ground.floats[model.runtime], ground.kitchen.seed
    latency = compare(
        base, {"it": model}, ground.judge, batch=batch, seconds=seconds, confidence=CONFIDENCE, seed=seed
    )["it"]
    if isinstance(latency, ArtifactError):
        raise latency
    return {"speedup": plain(latency.speedup), "p50_ms": latency.p50_ms, "contended": latency.contended}


def _short(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]}..."


@dataclass
class Ledger:
    """The figures so far, written whenever there are more.

    Parameters
    ----------
    name
        Of the file of results.
    seed
        Of everything.
    figures
        By case what is known of its ground, and one row for each recipe.
    """

    name: str
    seed: int
    figures: Figures

    @classmethod
    def open(cls, name: str, seed: int, size: Size) -> Ledger:
        """Go on with the figures of another run of the same size and seed."""
        figures = kept(name)
        about = {"size": json.loads(json.dumps(asdict(size))), "seed": seed}
        same = all(figures.get(key) == value for key, value in about.items())
        return cls(name, seed, figures if same else {**about, "grounds": {}})

    def on(self, name: str, ground: Ground) -> Figures:
        """Return the figures on a ground: none where they were of another network or other rows."""
        about = {**told(ground), "batches": list(BATCHES), "accuracy": _accuracy(ground)}
        before = self.figures["grounds"].get(name, {})
        rows = before.get("rows", {}) if before.get("digest") == ground.digest else {}
        installed = {recipe: row for recipe, row in rows.items() if row["technique"] in ground.known}
        now: Figures = {**about, "rows": installed}
        self.figures["grounds"][name] = now
        return now

    def save(self) -> Path:
        """Write what there is."""
        return save(self.name, self.figures, self.seed)


def _accuracy(ground: Ground) -> dict[str, float | None]:
    return plain(quality(Accuracy(), next(iter(ground.answers.values())), CONFIDENCE))


def fill(ledger: Ledger, name: str, ground: Ground, size: Size, wanted: Iterable[str], fresh: bool) -> None:
    """Measure, on one ground, the techniques that are wanted and were not measured before."""
    rows: Figures = ledger.on(name, ground)["rows"]
    done: set[str] = set()
    for technique in wanted:
        for recipe in recipes(technique, ground, rows):
            if recipe.name in done or (not fresh and _known(rows.get(recipe.name))):
                continue
            begin = time.perf_counter()
            rows[recipe.name] = measure(ground, recipe, size) | {"technique": technique}
            rows[recipe.name]["took_seconds"] = time.perf_counter() - begin
            done.add(recipe.name)
            print(f"{name}: {recipe.name}, {rows[recipe.name]['took_seconds']:.0f} s", flush=True)
            ledger.save()


def _known(row: Figures | None) -> bool:
    """Tell whether a row says something of its recipe; that time ran out says more of what ran beside."""
    return row is not None and not row.get("late", False)


def recipes(technique: str, ground: Ground, rows: Figures) -> list[Recipe]:
    """Return where a technique stands alone; where it stands nowhere, its row says why."""
    try:
        there = placed(technique, ground.known)
    except SettingsError as error:
        rows[technique] = {"technique": technique, "refused": _short(error)}
        return []
    if technique not in {recipe.name for recipe in there}:
        rows.pop(technique, None)  # from before there was a way
    return there


def show(figures: Figures, console: Console) -> None:
    """Print a table of each ground, and what is in none with the reason."""
    for name, ground in figures["grounds"].items():
        table = Table(*head(ground), title=f"{name}: float network {ground['accuracy']['value']:.3f} right")
        for cells in lines(ground):
            table.add_row(*cells)
        console.print(table)
        for what, reason in refusals(ground):
            console.print(f"{name}: {what}: {reason}", highlight=False)
    for sentence in sentences(figures.get("blocks", {})):
        console.print(sentence, highlight=False)


def _wanted(parser: argparse.ArgumentParser, only: str | None) -> list[str]:
    there = sorted(discover.installed("techniques"))
    names = only.split(",") if only else there
    if unknown := [name for name in names if name not in there]:
        parser.error(f"--only: no technique {unknown[0]!r} is installed.{nearest(unknown[0], there)}")
    return names


def main() -> None:
    """Measure what was not measured yet, print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 10 minutes; the figures mean little")
    parser.add_argument("--only", help="techniques, with commas between; all by default")
    parser.add_argument("--case", choices=CASES, action="append", help="only on this one; may be repeated")
    parser.add_argument("--fresh", action="store_true", help="measure what was measured before anew")
    parser.add_argument("--folder", type=Path, help="keep networks and steps here, or take them from here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of training")
    given = parser.parse_args()
    wanted, size = _wanted(parser, given.only), size_of(given.quick)
    torch.set_num_threads(given.threads)
    known, missing = abouts()
    ledger = Ledger.open("techniques-quick" if given.quick else "techniques", given.seed, size)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="trimtab-techniques-") as place:
        folder = given.folder or Path(place)
        cases = given.case or list(CASES)
        for name in cases:
            case = CASES[name](given.seed, size)
            ground = Ground.lay(case, known, folder / f"{name}-{given.seed}", given.seed, given.threads)
            fill(ledger, name, ground, size, [n for n in wanted if n in known], given.fresh)
        asked = blocks.CASE in cases and blocks.NAME in wanted and blocks.NAME in known
        if asked and (given.fresh or "blocks" not in ledger.figures):
            ledger.figures["blocks"] = blocks.measure(folder, known, size, given.seed, given.threads)
    ledger.figures["missing"] = missing
    console = Console(width=180)
    show(ledger.figures, console)
    console.print(ledger.save(), f"{(time.perf_counter() - begin) / 60:.1f} minutes", highlight=False)


if __name__ == "__main__":
    main()
