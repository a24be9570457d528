"""What a monitor promises."""

# ruff: noqa: D401 (the docstring of a check says what is lost, which is no command)

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
from typing import Any

import numpy as np
import pandas as pd

from trimtab.monitor import Answer, Finding, Monitor, Sample, Summary, case_of
from trimtab.testing.material import (
    ALPHA,
    CENTRES,
    LABEL,
    ROWS,
    SEED,
    Material,
    quiet_frame,
)
from trimtab.testing.promise import refuses_unknown, require, says_what_it_is


def check_monitor_says_what_it_is(monitor: Monitor, material: Material) -> None:
    """The loop asks it at the wrong time, or shares the false alarms wrongly."""
    says_what_it_is(monitor, {"name": str, **dict.fromkeys(("guards", "needs_labels", "statistical"), bool)})


def check_monitor_refuses_unknown_settings(monitor: Monitor, material: Material) -> None:
    """A misspelt threshold is silently without effect, and drift passes unseen."""
    refuses_unknown(monitor)


def check_quiet_window_is_quiet(monitor: Monitor, material: Material) -> None:
    """It wakes people, and retrains models, for nothing."""
    for number in (1, 2, 3):
        found = _look(monitor, material, quiet_frame(ROWS, SEED + 10 + number), number)
        require(
            found.answer in (Answer.FINE, Answer.UNKNOWN),
            f"{monitor.name} says {found.answer} of rows drawn like the reference (alpha {ALPHA}): {found.reasons}",
        )


def _look(monitor: Monitor, material: Material, frame: pd.DataFrame, number: int = 4) -> Finding:
    return monitor.check(case_of(monitor, material.reference, material.sample(frame, number), ALPHA))


def check_same_window_same_finding(monitor: Monitor, material: Material) -> None:
    """A restarted loop decides otherwise than the one that was cut off, and no alarm can be explained later."""
    frame = quiet_frame(ROWS, SEED + 20)
    first, second = _look(monitor, material, frame), _look(monitor, material, frame)
    require(first == second, f"{monitor.name} found {first} and then, in the same rows, {second}")


def check_finding_is_complete(monitor: Monitor, material: Material) -> None:
    """The journal cannot keep the finding, or keeps it under another monitor's name or window."""
    for frame in (quiet_frame(ROWS, SEED + 30), _damaged(quiet_frame(ROWS, SEED + 31))):
        found = _look(monitor, material, frame, number=9)
        require(found.monitor == monitor.name, f"finding of {monitor.name} is signed {found.monitor!r}")
        require(found.window == 9, f"finding about window 9 says window {found.window}")
        require(isinstance(found.answer, Answer), f"answer {found.answer!r} is no Answer")
        require(all(isinstance(r, str) and r for r in found.reasons), f"reasons {found.reasons!r} are not all text")
        alarms = found.answer in (Answer.BROKEN, Answer.WORSE, Answer.MOVED)
        require(not alarms or bool(found.reasons), f"{monitor.name} says {found.answer} without a reason")
        require(Finding.from_json(found.to_json()) == found, f"{found} does not survive JSON")


def _damaged(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(a=frame["a"] + 25.0, y=(frame[LABEL] + 1) % len(CENTRES))


def check_scores_are_numbers(monitor: Monitor, material: Material) -> None:
    """Dashboards show gaps, and the journal drops the score that would have explained the alarm."""
    for frame in (quiet_frame(ROWS, SEED + 40), _damaged(quiet_frame(ROWS, SEED + 41))):
        for name, value in _look(monitor, material, frame).scores.items():
            require(isinstance(name, str) and bool(name), f"score {name!r} of {monitor.name} has no name")
            require(math.isfinite(value), f"score {name!r} of {monitor.name} is {value}")


def check_few_rows_are_no_alarm(monitor: Monitor, material: Material) -> None:
    """A night without traffic stops the loop, or starts a round on no rows."""
    frame = quiet_frame(ROWS, SEED + 50)
    for rows in (0, 1, 2, 3):
        found = _look(monitor, material, frame.head(rows))
        allowed = {Answer.FINE, Answer.UNKNOWN, *([Answer.BROKEN] if monitor.guards else [])}
        require(found.answer in allowed, f"{monitor.name} says {found.answer} of {rows} rows: {found.reasons}")
    for labels in (None, np.full(ROWS, -1, dtype=np.int64)):
        blind = dataclasses.replace(material.sample(frame, 4), labels=labels, probabilities=None, embedding=None)
        found = monitor.check(case_of(monitor, material.reference, blind, ALPHA))
        require(
            found.answer in (Answer.FINE, Answer.UNKNOWN),
            f"{monitor.name} says {found.answer} without labels and output: {found.reasons}",
        )


def check_bears_broken_rows(monitor: Monitor, material: Material) -> None:
    """One bad column hides what there is to say of all the others, and leaves an error in the journal."""
    if monitor.guards or monitor.needs_labels:
        return  # the former answer for such rows themselves, the latter never see them
    whole = quiet_frame(ROWS, SEED + 55)
    for frame in (whole.drop(columns="a"), whole.assign(a="broken"), whole.assign(a=np.nan)):
        broken = Sample(material.schema, frame, 4)
        try:
            found = monitor.check(case_of(monitor, material.reference, broken, ALPHA))
        except Exception as error:
            raise AssertionError(
                f"{monitor.name} raised {type(error).__name__} on rows whose column 'a' is broken: {error}"
            ) from error
        require(isinstance(found, Finding), f"{monitor.name} found {found!r} in rows whose column 'a' is broken")


def check_leaves_its_samples_alone(monitor: Monitor, material: Material) -> None:
    """The monitors after it see other rows than the ones that production saw."""
    reference, current = (material.sample(quiet_frame(ROWS, SEED + 60 + i), i) for i in range(2))
    before = [_print(reference), _print(current)]
    monitor.check(case_of(monitor, reference, current, ALPHA))
    require([_print(reference), _print(current)] == before, f"{monitor.name} altered the rows that it looked at")


def _print(sample: Sample) -> tuple[object, ...]:
    arrays = [*sample.inputs.values(), sample.probabilities, sample.embedding, sample.labels]
    frame = sample.frame
    values = tuple(pd.util.hash_pandas_object(frame, index=True).tolist())
    return (tuple(frame.columns), values, *(a.tobytes() for a in arrays if a is not None))


def check_figures_come_from_what_is_stored(monitor: Monitor, material: Material) -> None:
    """The page of a window that alarmed cannot be drawn, or needs rows that are gone by then."""
    current = material.sample(_damaged(quiet_frame(ROWS, SEED + 70)), 5)
    case = case_of(monitor, material.reference, current, ALPHA)
    kept = monitor.keep(case)
    if not kept:
        return
    for figure in monitor.figures(_stored(case.fitted), _stored(kept)):
        bins = len(figure.levels) if figure.edges is None else len(figure.edges) - 1
        name = f"{monitor.name}'s figure {figure.name!r}"
        require(len(figure.before) == len(figure.now) == bins, f"{name} has other shares than its {bins} bins")
        for shares in (figure.before, figure.now):
            require(bool((shares >= 0).all()) and float(shares.sum()) <= 1 + 1e-6, f"{name} has no shares: {shares}")


def check_batches_add_up(monitor: Monitor, material: Material) -> None:
    """A large window, which comes in batches, is judged otherwise than the same rows at once."""
    frame = quiet_frame(ROWS, SEED + 80)
    for current in (frame, _damaged(frame)):
        whole = case_of(monitor, material.reference, material.sample(current, 6), ALPHA)
        parts = [current.iloc[i : i + ROWS // 3] for i in range(0, ROWS, ROWS // 3)]
        kept = [monitor.summarize(whole.fitted, Sample(material.schema, part, 6)) for part in parts]
        added = functools.reduce(functools.partial(monitor.add, whole.fitted), kept)
        at_once, batched = monitor.check(whole), monitor.check(dataclasses.replace(whole, seen=_stored(added)))
        require(batched.answer == at_once.answer, f"{monitor.name} says {at_once} at once, {batched} of batches")
        for name, score in at_once.scores.items():
            close = math.isclose(batched.scores.get(name, math.nan), score, rel_tol=1e-6, abs_tol=1e-9)
            require(
                close, f"score {name!r} of {monitor.name} is {score} at once, {batched.scores.get(name)} of batches"
            )


def _stored(summary: Summary) -> Summary:
    """Return a summary as it comes back from a file."""
    file, plain = io.BytesIO(), dict[str, Any](summary)
    np.savez(file, **plain)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def check_what_it_keeps_is_shown_again(monitor: Monitor, material: Material) -> None:
    """What is found over several windows is forgotten when the loop starts anew."""
    case = case_of(monitor, material.reference, material.sample(quiet_frame(ROWS, SEED + 90), 7), ALPHA)
    found = Finding.from_json(json.loads(json.dumps(monitor.check(case).to_json())))
    again = dataclasses.replace(case, past=(found,))
    require(
        monitor.check(again) == monitor.check(again), f"{monitor.name} finds otherwise each time it is shown its past"
    )
