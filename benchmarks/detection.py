"""How often monitors find what changed: shifts of columns, relations between them, and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import labels
from rates import REFERENCE, SHARE, Cell, Source, counted, rate
from rich.table import Table
from streams import SHIFTS
from telling import Figures, Ground, Told

WINDOW = 1000
GOALS = dict.fromkeys([*SHIFTS, labels.FLIPS], 0.95) | {"correlation broken": 0.9}
WHO = ("trimtab", "named", "evidently any", "evidently half")
SHOWN = ("found", "named", "evidently_any", "evidently_half")
QUICK = 10


def shifted_cells(quick: bool) -> dict[Cell, int]:
    """Return the cells of windows in which something changed, with how many to look at."""
    found: dict[Cell, int] = {}
    streams: list[tuple[Source, int | None, int]] = [("generated", 5, 120), ("electricity", None, 120)]
    streams += [("generated", 25, 100), ("generated", 100, 60)]
    for shift in SHIFTS:
        for source, columns, windows in streams:
            found[Cell(source, columns, WINDOW, REFERENCE, shift)] = QUICK if quick else windows
    return found


def measure(ground: Ground) -> Told:
    """Count what is found of what changed."""
    found: dict[str, dict[str, Figures]] = {shift: {} for shift in SHIFTS}
    kinds: dict[str, Counter[str]] = {shift: Counter() for shift in SHIFTS}
    for cell, counts in counted(shifted_cells(ground.quick), ground).items():
        shift = str(cell.shift)
        rates = {who.replace(" ", "_"): rate(counts, who) for who in WHO}
        found[shift][cell.name] = {"windows": counts["windows"], "found": rates.pop("trimtab"), **rates}
        kinds[shift].update(counts)
    found[labels.FLIPS] = labels.flips(ground, WINDOW, REFERENCE, SHARE)
    by_kind = {shift: _by_kind(counts) for shift, counts in kinds.items()}
    for shift, cells in found.items():
        for told in cells.values():
            told["ok"] = told["found"] >= GOALS[shift]
    figures: Figures = {
        "detection": found,
        "detection_ok": all(told["ok"] for cells in found.values() for told in cells.values()),
        "detection_by_kind": by_kind,
        "detection_alpha": SHARE,
    }
    return Told(figures, [_table(found), _kinds_table(by_kind)])


def _by_kind(counts: Mapping[str, int]) -> dict[str, Figures]:
    """Return over all streams how much was found in columns of each kind."""
    kinds = sorted(key.removesuffix(" windows") for key in counts if key.endswith(" windows"))
    windows = {kind: counts[f"{kind} windows"] for kind in kinds}
    return {kind: {"windows": n, "found": counts.get(f"{kind} found", 0) / n} for kind, n in windows.items()}


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("shift", "stream", "windows", "found", "and named", "Evidently, any", "half", title="Shifts")
    for shift, cells in found.items():
        for stream, told in cells.items():
            rates = (f"{told[key]:.3f}" if key in told else "" for key in SHOWN)
            table.add_row(shift, stream, str(told["windows"]), *rates)
    return table


def _kinds_table(by_kind: Mapping[str, Mapping[str, Figures]]) -> Table:
    table = Table("shift", "kind of column", "windows", "found", title="Shifts by the kind of the column")
    for shift, kinds in by_kind.items():
        for kind, told in kinds.items():
            table.add_row(shift, kind, str(told["windows"]), f"{told['found']:.3f}")
    return table
