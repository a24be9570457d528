"""Two versions beside each other on live windows: what both answer on the same labelled rows, and what follows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from trimtab import champion
from trimtab.data import segments_of
from trimtab.errors import ArtifactError, DataError, ReadError, ServiceError
from trimtab.gate import Outcome, Verdict
from trimtab.metric import Answers
from trimtab.monitor import Sample
from trimtab.parts import Parts
from trimtab.sight import seen_by_champion, survey_of
from trimtab.survey import Survey
from trimtab.window import Window, arrived

__all__ = ["AnswerError", "agreement", "judge_live", "sound_windows"]


class AnswerError(ArtifactError):
    """A version that does not load, or raises, on the rows of a window."""

    def __init__(self, version: int, number: int, error: Exception) -> None:
        super().__init__(f"version {version} cannot answer window {number}: {error}")
        self.version = version


def sound_windows(parts: Parts, after: int, upto: int, looking: int = 0) -> list[int]:
    """Return the windows behind ``after``, up to ``upto``, that were looked at, have rows, and are not quarantined.

    Parameters
    ----------
    looking
        The window that is being looked at, which the journal does not have yet; 0: none is.
    """
    looked_at = {w.number for w in parts.journal.windows() if w.rows} | {looking}
    return sorted(n for n in looked_at - parts.journal.quarantined() if after < n <= upto)


def judge_live(parts: Parts, newer: int, older: int, windows: Sequence[int], alias: str, looks: int = 1) -> Verdict:
    """Judge a version beside the one before it on the labelled rows of live windows.

    Rows are left out whose group either was fitted to; of a large window both answer the same draw. A newer one
    that cannot answer is rejected; beside an older one that cannot, nothing is known of it.

    Parameters
    ----------
    newer, older
        Numbers of the versions.
    windows
        Their numbers; one whose rows can no longer be read tells nothing.
    alias
        Of the target's champion.
    looks
        Number of times that these two are judged, on more and more windows.
    """
    try:
        pairs = [pair for number in windows if (pair := _both(parts, newer, older, number)) is not None]
    except AnswerError as error:
        return Verdict(Outcome.REJECTED if error.version == newer else Outcome.UNKNOWN, (str(error),))
    if not pairs:
        return Verdict(Outcome.UNKNOWN, (f"{parts.metric.name}: no rows to judge on",))
    new, old = zip(*pairs, strict=True)
    target = parts.project.aliases[alias]
    gate = parts.project.gate
    return gate.judge_live(Answers.join(new), Answers.join(old), metric=parts.metric, target=target, looks=looks)


def agreement(parts: Parts, newer: int, older: int, number: int) -> float:
    """Return the share of a window's rows of which two versions say the same, before labels tell who is right.

    Regressions say the same where they differ by no more than a hundredth of the older one's spread. NaN where the
    newer one says what is no number.

    Raises
    ------
    DataError
        When the rows cannot be read.
    AnswerError
        When one of them does not load, or raises.
    """
    new, old, _ = _seen(parts, newer, older, parts.window(number), fitted=True)
    if new.outputs is None or old.outputs is None or not len(new):
        return 1.0
    if not np.isfinite(new.outputs).all():
        return math.nan
    if new.schema.task == "regression":
        return float((np.abs(new.outputs - old.outputs) <= old.outputs.std() / 100).mean())
    return float((new.outputs.argmax(axis=1) == old.outputs.argmax(axis=1)).mean())


def _both(parts: Parts, newer: int, older: int, number: int) -> tuple[Answers, Answers] | None:
    window = parts.window(number)
    try:
        *samples, seen = _seen(parts, newer, older, window, fitted=False)
        segments = segments_of(seen.frame, parts.project.data.segments)
    except ReadError:
        raise
    except DataError as error:
        parts.journal.record("error", {"window": number, "message": str(error)}, f"unread:{newer}:{number}")
        return None
    places = (window.span.start + seen.places).astype(np.uint64)
    new, old = (_answers(sample, places, segments) for sample in samples)
    return None if new is None or old is None else (new, old)


def _seen(parts: Parts, newer: int, older: int, window: Window, *, fitted: bool) -> tuple[Sample, Sample, Survey]:
    """Return the same draw of a window's rows as both versions see it, with rows that one was ``fitted`` to or not."""
    servings = []
    for version in (newer, older):
        with _answering(version, window.number):
            servings.append(champion.load(parts, version))
    both = dataclasses.replace(servings[0], fitted=np.union1d(*(s.fitted for s in servings)))
    seen = survey_of(parts, both, window, [], fitted=fitted)
    samples = []
    for serving in servings:
        with _answering(serving.version, window.number):
            samples.append(seen_by_champion(parts, serving, window, seen))
    return samples[0], samples[1], seen


@contextmanager
def _answering(version: int, number: int) -> Iterator[None]:
    """Name the version that whatever is raised inside is about; rows that cannot be read are no version's fault."""
    try:
        yield
    except (DataError, ServiceError):
        raise
    except Exception as error:  # whatever a runtime raises on live rows
        raise AnswerError(version, number, error) from error


def _answers(sample: Sample, places: npt.NDArray[np.uint64], segments: npt.NDArray[np.str_] | None) -> Answers | None:
    """Return what a version answers on the rows whose label has come; without groups every row is one."""
    if sample.outputs is None or sample.labels is None:
        return None
    groups = places if sample.groups is None else sample.groups
    return Answers(sample.outputs, sample.labels, groups, segments).take(arrived(sample.labels))
