"""How often the drift monitor alarms, beside Evidently's default rules; and how often where nothing changed.

Every window has a reference of its own, drawn afresh: windows that share one alarm together or not at all.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import preset
from rich.table import Table
from scipy.stats import binomtest
from streams import SHIFTS, Stream, electricity, generated
from telling import Figures, Ground, Told

from trimtab.monitor import Answer, Finding, case_of
from trimtab.sections import MonitorsSettings
from trimtab_evidently.drift import Drift

FALSE_ALARMS = MonitorsSettings().false_alarms
SHARE = FALSE_ALARMS / 2
"""Of the drift monitor, or of the performance monitor, where a window is looked at by both, as by default."""
REFERENCE = 2000
TASK = 20

Source = Literal["generated", "electricity"]


@dataclass(frozen=True)
class Cell:
    """Windows of one kind.

    Parameters
    ----------
    source, columns
        Of the stream; no number of columns: electricity with its category.
    rows, reference
        Of a window, and of the reference beside it.
    shift
        What changes in the window; None: nothing.
    """

    source: Source
    columns: int | None
    rows: int
    reference: int = REFERENCE
    shift: str | None = None

    @property
    def stream(self) -> Stream:
        """That the rows come from."""
        return electricity(self.columns) if self.source == "electricity" else generated(self.columns or 5)

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.source} {self.columns or 7} columns"


@dataclass(frozen=True)
class Task:
    """Some windows of a cell, drawn from a seed of their own."""

    cell: Cell
    windows: int
    seed: tuple[int, ...]


def tasks(cells: Mapping[Cell, int], seed: int) -> list[Task]:
    """Cut the windows that are wanted of each cell into tasks, the dearest first."""
    found = []
    for number, (cell, windows) in enumerate(cells.items()):
        for first in range(0, windows, TASK):
            found.append(Task(cell, min(TASK, windows - first), (seed, number, first)))
    return sorted(found, key=lambda t: -(t.cell.columns or 7))


def spread(work: Sequence[Task], jobs: int) -> Iterator[tuple[Cell, Counter[str]]]:
    """Do tasks in so many processes."""
    if jobs == 1:
        yield from map(look, work)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(look, work)


def look(task: Task) -> tuple[Cell, Counter[str]]:
    """Look at windows, and count: ``windows``, who alarmed, and by the kind of the column that changed."""
    cell, stream, counts = task.cell, task.cell.stream, Counter[str]()
    rng = np.random.default_rng(task.seed)
    for _ in range(task.windows):
        before, now = (stream.draw(rng, rows) for rows in (cell.reference, cell.rows))
        kind, where = "", tuple[str, ...]()
        if cell.shift is not None:
            shifted = SHIFTS[cell.shift](stream, now, rng)
            now, kind, where = shifted.frame, shifted.kind, shifted.where
        alpha = FALSE_ALARMS if cell.shift is None else SHARE
        monitor = Drift()
        finding = monitor.check(case_of(monitor, stream.sample(before), stream.sample(now, 1), alpha))
        share = preset.drifted_columns(before, now, stream.categories)
        alarmed = finding.answer is Answer.MOVED
        counts += Counter(
            {
                "windows": 1,
                "trimtab": int(alarmed),
                "named": int(named(finding, where)),
                "evidently any": int(share > 0),
                "evidently half": int(share >= preset.HALF),
                f"{kind} windows": 1,
                f"{kind} found": int(alarmed),
            }
        )
    return cell, counts


def named(finding: Finding, where: tuple[str, ...]) -> bool:
    """Whether a reason names the column, or the pair of columns, that changed."""
    if not where:
        return False
    names = (" ~ ".join(where),) if len(where) > 1 else (where[0], f"{where[0]}.missing")
    return any(reason.startswith(f"{name} moved: ") for reason in finding.reasons for name in names)


def counted(cells: Mapping[Cell, int], ground: Ground) -> dict[Cell, Counter[str]]:
    """Look at so many windows of each cell."""
    found = {cell: Counter[str]() for cell in cells}
    for cell, counts in spread(tasks(cells, ground.seed), ground.jobs):
        found[cell].update(counts)
    return found


def rate(counts: Mapping[str, int], who: str = "trimtab") -> float:
    """Return the share of windows in which somebody alarmed."""
    return counts.get(who, 0) / counts["windows"]


def at_least(alarms: int, windows: int, confidence: float = 0.999) -> float:
    """Return the lower bound of a rate after Clopper and Pearson, on one side."""
    return float(binomtest(alarms, windows, alternative="greater").proportion_ci(confidence).low)


def quiet_cells(quick: bool) -> dict[Cell, int]:
    """Return the cells of quiet windows with how many to look at; few where they are dear."""
    many = {5: 300, 25: 300, 100: 140}
    found: dict[Cell, int] = {}
    for source, sizes in (("generated", (200, 2000, 20_000)), ("electricity", (200, 2000))):
        for columns, windows in many.items():
            for rows in sizes:
                cell = Cell(source, columns, rows, max(rows, REFERENCE))  # type: ignore[arg-type]
                found[cell] = 10 if quick else 120 if columns * rows > 10**6 else windows
    return found


def false_alarms(ground: Ground) -> Told:
    """Count alarms where nothing changed."""
    table = Table("stream", "rows", "windows", "alarms", "rate", "at least", "Evidently, any", "half", title="No drift")
    cells: list[Figures] = []
    for cell, counts in counted(quiet_cells(ground.quick), ground).items():
        low = at_least(counts["trimtab"], counts["windows"])
        rates = [rate(counts, who) for who in ("trimtab", "evidently any", "evidently half")]
        told: Figures = {
            "source": cell.source,
            "columns": cell.columns,
            "rows": cell.rows,
            "reference_rows": cell.reference,
        }
        told |= {"windows": counts["windows"], "alarms": counts["trimtab"], "rate": rates[0], "low": low}
        cells.append(told | {"ok": low <= FALSE_ALARMS, "evidently_any": rates[1], "evidently_half": rates[2]})
        shown = (f"{rates[0]:.3f}", f"{low:.3f}", f"{rates[1]:.2f}", f"{rates[2]:.2f}")
        table.add_row(cell.name, str(cell.rows), str(counts["windows"]), str(counts["trimtab"]), *shown)
    figures = {
        "false_alarm_cells": cells,
        "false_alarm_cells_ok": all(cell["ok"] for cell in cells),
        "false_alarms": FALSE_ALARMS,
    }
    return Told(figures, [table])
