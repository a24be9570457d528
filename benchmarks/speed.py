"""What a window costs beside Evidently's untouched preset, in CPU seconds of one process, and if both say the same.

Ours is one look at every row, and the check. The reference is sketched once per version of the champion; what that
takes is told beside it, and so is the look with everything that Evidently's preset does not do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import preset
from rich.table import Table
from seeded import over_seeds, plain, ratio
from streams import Stream, generated
from telling import Figures, Ground, Told

from trimtab.monitor import Case, Finding, Summary
from trimtab.sections import MonitorsSettings
from trimtab.survey import survey
from trimtab.window import Partition
from trimtab_evidently.drift import Drift

COLUMNS = 25
SITTINGS = {1_000_000: 3, 100_000: 5}
QUICK = {100_000: 2}
KEYS = {1_000_000: "1m", 100_000: "100k"}
DRAWN = MonitorsSettings().rows
ALIKE = Drift(effect=preset.THRESHOLD, category_effect=preset.THRESHOLD, joint=False, calibrate=False)
"""As Evidently's preset decides: by its thresholds alone, column by column."""
CHANGES: Sequence[tuple[int, Callable[[Any], Any]]] = (
    (0, lambda v: v + 0.2),
    (1, lambda v: v * 1.5),
    (2, lambda v: v + 0.2),
    (3, lambda v: v * 1.05),
    (5, lambda v: v + 0.05),
    (7, lambda v: v + (np.arange(len(v)) % 3 == 0)),
    (8, lambda v: np.where(np.arange(len(v)) % 8 == 0, 0.0, v)),
    (10, lambda v: v * 1.3),
    (13, lambda v: v.mask(np.arange(len(v)) % 10 == 0)),
    (16, lambda v: v * 0.9),
    (4, lambda v: v.mask(np.arange(len(v)) % 4 == 0, "a")),
    (9, lambda v: v.mask(np.arange(len(v)) % 30 == 0, "b")),
    (14, lambda v: v.replace("e", "new")),
)
"""Of some columns by number: of every kind some that drift, some that change by less, some not at all."""


@dataclass(frozen=True)
class Sitting:
    """One window looked at by both sides, CPU seconds each.

    Parameters
    ----------
    evidently
        Its preset.
    alike
        Ours with its rules.
    all
        Ours at its defaults: calibrated, missing values, and what columns are together.
    reference
        Fitting the reference, once per version.
    differ
        Columns on which the two disagree.
    drifted
        How many columns drifted after Evidently.
    """

    evidently: float
    alike: float
    all: float
    reference: float
    differ: tuple[str, ...]
    drifted: int


def changed(frame: pd.DataFrame) -> pd.DataFrame:
    """Change some of the columns."""
    names = [str(name) for name in frame]
    return frame.assign(**{names[number]: change(frame[names[number]]) for number, change in CHANGES})


def looked(monitor: Drift, stream: Stream, fitted: Summary, before: pd.DataFrame, now: pd.DataFrame) -> Finding:
    """Look at a window at hand as the loop does: all its rows once, and the check beside drawn rows."""
    seen = survey([Partition(0, lambda: [now])], stream.schema, 1, [(monitor, fitted)], DRAWN)
    if seen.failed:
        raise seen.failed[monitor.name]
    drawn = stream.sample(seen.frame, 1)
    return monitor.check(Case(fitted, seen.seen[monitor.name], stream.sample(before), drawn, 0.05))


def sit(stream: Stream, rows: int, rng: np.random.Generator) -> Sitting:
    """Let both sides look at a window."""
    before, now = stream.draw(rng, rows), changed(stream.draw(rng, rows))
    start = time.process_time()
    fitted = ALIKE.fit(stream.sample(before))
    reference = time.process_time() - start
    held = before.sample(min(DRAWN, rows), random_state=0)
    seconds: dict[str, float] = {}
    findings: dict[str, Finding] = {}
    for name, monitor in {"alike": ALIKE, "all": Drift()}.items():
        start = time.process_time()
        findings[name] = looked(monitor, stream, fitted, held, now)
        seconds[name] = time.process_time() - start
    start = time.process_time()
    theirs = preset.preset(before, now, stream.categories)
    evidently = time.process_time() - start
    ours = {reason.split(" moved: ")[0] for reason in findings["alike"].reasons}
    differ = tuple(name for name in stream.kinds if (name in ours) != theirs.get(name))
    return Sitting(evidently, seconds["alike"], seconds["all"], reference, differ, sum(theirs.values()))


def measure(ground: Ground) -> Told:
    """Look at windows of each size, several times."""
    stream = generated(COLUMNS)
    rng = np.random.default_rng(ground.seed)
    sit(stream, 5000, rng)  # imports and caches are nobody's window
    table = Table("rows", "Evidently", "ours", "all of ours", "reference", "speed-up", "differing verdicts")
    figures: Figures = {}
    differ: set[str] = set()
    for rows, times in (QUICK if ground.quick else SITTINGS).items():
        sittings = [sit(stream, rows, rng) for _ in range(times)]
        differ |= {name for s in sittings for name in s.differ}
        told, shown = summary(sittings)
        figures |= {f"speedup_{KEYS[rows]}": told.pop("speedup"), f"speed_{KEYS[rows]}": told}
        table.add_row(f"{rows:,}", *shown, str(sum(len(s.differ) for s in sittings)))
    figures |= {"verdicts_equal": not differ, "verdicts_differ": sorted(differ)}
    return Told(figures, [table])


def summary(sittings: Sequence[Sitting]) -> tuple[Figures, list[str]]:
    """Return means over sittings, and the columns of the table."""
    means: Mapping[str, float] = {
        name: over_seeds([getattr(s, name) for s in sittings]).value
        for name in ("evidently", "alike", "all", "reference")
    }
    speedup = ratio([s.evidently / s.alike for s in sittings])
    whole = ratio([s.evidently / s.all for s in sittings])
    told: Figures = {f"{name}_cpu_seconds": value for name, value in means.items()}
    told |= {"speedup": plain(speedup), "speedup_of_all": plain(whole), "sittings": len(sittings)}
    told["columns_drifted"] = sittings[0].drifted
    return told, [*(f"{value:.2f} s" for value in means.values()), f"{speedup:.0f} (all: {whole:.0f})"]
