"""What windows are compared with: the version's held-back rows, the last good window, or the same season."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from trimtab import champion
from trimtab.data import FITTED, assign, group_keys
from trimtab.errors import DataError, ReadError
from trimtab.monitor import Sample
from trimtab.parts import Parts
from trimtab.serving import Serving
from trimtab.sight import seen_by_champion
from trimtab.state import windows_in
from trimtab.survey import Survey, survey
from trimtab.window import Window

__all__ = ["reference_of"]

FEWEST_ROWS = 100
"""Rows from which on a window stands for a reference."""


def reference_of(parts: Parts, serving: Serving, number: int) -> Sample:
    """Return what a window is compared with, by the setting ``monitors.reference``.

    Windows that were quarantined stand for nothing. Of windows on which the version may have been trained
    only rows are taken whose role is none of training. Where no window qualifies it is the version's own.

    Parameters
    ----------
    number
        Of the window that is to be compared.
    """
    rule, _, season = parts.project.monitors.reference.partition(" ")
    if rule == "fixed":
        return serving.reference
    candidates = _good(parts, serving, number) if rule == "last" else _same_season(parts, number, season)
    for candidate in candidates:
        key = (serving.version, candidate)
        if key not in parts.references:
            try:
                parts.references[key] = _drawn(parts, serving, parts.window(candidate))
            except ReadError:
                raise
            except DataError:  # rows that this version cannot read stand for nothing
                continue
        if len(parts.references[key]) >= FEWEST_ROWS:
            return parts.references[key]
    return serving.reference


def _good(parts: Parts, serving: Serving, number: int) -> Iterator[int]:
    """Yield earlier windows, the newest first, about which no monitor alarmed under this version."""
    alarmed = {f.window for _, f in parts.journal.findings(serving.version) if f.answer.alarms}
    yield from (n for n in _sound(parts, number) if n not in alarmed)


def _same_season(parts: Parts, number: int, season: str) -> Iterator[int]:
    """Yield earlier windows, the newest first, that lie whole seasons before this one."""
    period = max(1, round(windows_in(season, parts.project.windows_per_year)))
    yield from (n for n in _sound(parts, number) if (number - n) % period == 0)


def _sound(parts: Parts, number: int) -> Iterator[int]:
    quarantined = parts.journal.quarantined()
    known = sorted((w.number for w in parts.journal.windows() if w.number < number), reverse=True)
    yield from (n for n in known if n not in quarantined)


def _drawn(parts: Parts, serving: Serving, window: Window) -> Sample:
    """Draw rows of groups that the version was not fitted to, as of the window that is compared with them."""
    most = parts.project.data.reference_rows
    keep = champion.unseen(parts, serving, window.span.start) if len(serving.fitted) else None
    seen = survey(window.partitions, serving.schema, window.number, (), most, keep)
    if window.number <= champion.trained_up_to(parts):
        seen = _held_back(parts, serving, window, seen)
    return seen_by_champion(parts, serving, window, seen)


def _held_back(parts: Parts, serving: Serving, window: Window, seen: Survey) -> Survey:
    """Leave out rows that the version may have been fitted to."""
    places, data = window.span.start + seen.places, parts.project.data
    keys = group_keys(seen.frame, serving.schema, data.block, places)
    roles, _ = assign(keys, data.split.shares, parts.split_key)
    kept = ~np.isin(roles, FITTED)
    frame: pd.DataFrame = seen.frame[kept]
    return dataclasses.replace(seen, frame=frame, places=seen.places[kept])
