"""A window as monitors see it: every row once, and a draw of them with what the champion answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trimtab import champion
from trimtab.data import segments_of
from trimtab.errors import ServiceError, SettingsError
from trimtab.monitor import Monitor, Sample, Summary
from trimtab.parts import Parts
from trimtab.serving import Serving
from trimtab.survey import Survey, survey
from trimtab.window import Window

__all__ = ["fit", "seen_by_champion", "survey_of"]


def seen_by_champion(parts: Parts, serving: Serving, window: Window, seen: Survey) -> Sample:
    """Return the drawn rows of a window as monitors see them, with what the champion answers.

    Raises
    ------
    DataError
        When the rows cannot be read, have no group, or lack a column that divides them into segments: no round
        could be made on them.
    """
    segments_of(seen.frame, parts.project.data.segments)
    places, grouped = window.span.start + seen.places, parts.project.data.block or serving.schema.group
    groups = champion.groups_of(parts, serving, seen.frame, places) if grouped else None
    return champion.observe(serving.session, serving.schema, seen.frame, window.number, groups)


def survey_of(
    parts: Parts,
    serving: Serving,
    window: Window,
    monitors: Sequence[Monitor],
    fitted: bool = True,
    reference: Sample | None = None,
) -> Survey:
    """Look at every row of a window once.

    Parameters
    ----------
    monitors
        That keep something of it.
    fitted
        Whether to look also at rows that the version was fitted to.
    reference
        What the monitors fit to; the version's own where None.
    """
    keep = None if fitted or not len(serving.fitted) else champion.unseen(parts, serving, window.span.start)
    fits: list[tuple[Monitor, Summary]] = []
    failed: dict[str, Exception] = {}
    for monitor in monitors:
        try:
            fits.append((monitor, fit(parts, serving, monitor, reference or serving.reference)))
        except (SettingsError, ServiceError):
            raise
        except Exception as error:  # a plugin may raise anything, and the other monitors must still look
            failed[monitor.name] = error
    most = parts.project.monitors.rows
    seen = survey(window.partitions, serving.schema, window.number, fits, most, keep, parts.workers.map)
    return dataclasses.replace(seen, failed={**seen.failed, **failed})


def fit(parts: Parts, serving: Serving, monitor: Monitor, reference: Sample) -> Summary:
    """Return what a monitor fitted to a reference, once."""
    key = (serving.version, reference.number, monitor.name)
    if key not in parts.fits:
        parts.fits[key] = monitor.fit(reference)
    return parts.fits[key]
