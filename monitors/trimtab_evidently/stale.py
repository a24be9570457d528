"""Is the data stale? Files delivered twice, timestamps that do not advance, columns that stand still."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from trimtab.monitor import Answer, Case
from trimtab_evidently.cells import hashes, occurs_once
from trimtab_evidently.trail import Trail, followed

__all__ = ["IMPLAUSIBLE", "delivered_twice", "kept", "not_advancing", "standing_still"]

IMPLAUSIBLE = 1e-6
"""Chance with which quiet rows may do what is called broken, at most."""
RARE = 0.01
"""Share of the reference's values above which a value may well last for a whole window."""
UNKNOWN = -1.0


def kept(now: Trail, least_different: int) -> Mapping[str, Sequence[float]]:
    """Return what later windows are compared with; rows that hardly differ have no identity."""
    changes = [now.change(place) for place in range(len(now.values))]
    return {
        "rows": now.identity if len(now.different) >= least_different else [],
        "newest": [now.newest] if math.isfinite(now.newest) else [],
        "changes": [UNKNOWN if math.isnan(change) else change for change in changes],
    }


def delivered_twice(case: Case, now: Trail, least_different: int) -> Iterator[str]:
    """Compare the rows with those of every earlier window under this champion."""
    if len(now.different) >= least_different:
        same = [f.window for f in case.past if [*f.kept.get("rows", ())] == now.identity]
        if same:
            yield (
                f"rows: the features of all {now.rows} rows are those of window {same[0]}, in the same order: a file "
                "was delivered twice; deliver this window's own rows, or, where rows repeat by their nature, raise the "
                "monitor's min_rows_repeated"
            )


def not_advancing(case: Case, now: Trail) -> Iterator[str]:
    """Compare the timestamps with those of the window before."""
    before = case.past[-1].kept.get("newest", ()) if case.past else ()
    if before and now.newest < before[0]:
        yield (
            f"timestamp column {case.current.schema.timestamp!r}: every row is older than the newest of window "
            f"{case.past[-1].window}; deliver the rows that came since, or put the files in order"
        )


def standing_still(case: Case, now: Trail, least: int, but: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the columns that changed in every sound window before and hold one rare value in all of this one's rows.

    Quiet columns stand still too: those that are mostly zero, off at night, the same for a day. So the value
    must be rare in the reference, and by the earlier window in which the column changed least so long a
    standstill must be next to impossible.

    Parameters
    ----------
    least
        Fewest values that are judged.
    but
        Columns that are broken otherwise.
    """
    sound = [f.kept.get("changes", ()) for f in case.past if f.answer is not Answer.BROKEN]  # none where it raised
    schema = case.current.schema
    for place, name in enumerate(followed(schema)):
        pairs = int(now.values[place]) - 1
        if name in but or now.changes[place] or pairs + 1 < least:
            continue
        before = [c[place] for c in sound if place < len(c) and c[place] != UNKNOWN]
        if before and (1 - min(before)) ** pairs < IMPLAUSIBLE and _is_rare(case, name, now, place):
            kind = "column" if name in schema.names else "timestamp column"
            yield (
                name,
                f"{kind} {name!r} stands still: all {pairs + 1} values are the same, and in each window before "
                f"(since {case.past[0].window}) at least {min(before):.3g} of them differed from the one before; mend "
                "the source or the sensor, or raise the monitor's min_rows_still",
            )


def _is_rare(case: Case, name: str, now: Trail, place: int) -> bool:
    columns, reference = {c.name: c for c in case.reference.schema.columns}, case.reference.frame
    if name not in columns or not occurs_once(name, reference) or not len(reference):
        return True
    found = hashes(reference[name], columns[name].dtype)
    return float((found == now.first[place]).mean()) <= RARE
