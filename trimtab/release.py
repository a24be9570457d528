"""Releasing a window: a person says that what was found broken is right, or was mended, and it counts again."""

from __future__ import annotations

import numpy as np
import pandas as pd

from trimtab import champion
from trimtab.errors import DataError, InputError, ReadError
from trimtab.look import ask, without_labels
from trimtab.monitor import Finding
from trimtab.parts import Parts
from trimtab.reference import reference_of
from trimtab.serving import Serving
from trimtab.sight import seen_by_champion, survey_of
from trimtab.window import Window

__all__ = ["release"]


def release(parts: Parts, number: int, who: str, reason: str) -> tuple[list[str], list[Finding]]:
    """Take a window out of quarantine, for ever, and let the monitors look at its rows as they are now.

    The monitors that guard are not asked again: the person has answered them. Its labels are judged at the
    next watch, and from then on it can be trained on.

    Parameters
    ----------
    number
        Of a window that is quarantined.
    who, reason
        For the record.

    Returns
    -------
    problems, findings
        Monitors that raised, and what the others say.

    Raises
    ------
    InputError
        When there is no such window, it is not quarantined, or no model could be fitted to its rows; it
        then stays in quarantine.
    """
    windows = [w.number for w in parts.journal.windows()]
    if number not in windows:
        looked = f"windows 1 to {windows[-1]} were" if windows else "none was"
        raise InputError(f"window {number} was not looked at yet: {looked}; see trimtab status")
    done = parts.journal.released().get(number)
    if done is not None:
        raise InputError(f"window {number} was released already, by {done['who']} at {done['at']}: {done['reason']}")
    quarantined = parts.journal.quarantined()
    if number not in quarantined:
        have = ", ".join(map(str, sorted(quarantined))) or "none"
        raise InputError(f"window {number} is not quarantined; quarantined are: {have}")
    serving = champion.reconcile(parts)
    if serving is None:
        raise InputError("the project has no champion yet; run trimtab watch first")
    try:
        problems, findings = _look_again(parts, serving, parts.window(number))
    except ReadError:
        raise
    except DataError as error:
        raise DataError(f"window {number} stays in quarantine: {error}; mend its rows in the source first") from error
    parts.journal.record_findings(findings, serving.version, windows[-1])
    parts.journal.release(number, who, reason)
    return problems, findings


def _look_again(parts: Parts, serving: Serving, window: Window) -> tuple[list[str], list[Finding]]:
    """Ask the monitors that neither guard nor need labels about a window that a person released.

    Raises
    ------
    DataError
        When its rows cannot be read, or the champion has no answer to them.
    """
    rows = 0
    for batch in window.batches():
        _refuse_unusable(serving, batch, rows)
        rows += len(batch)
    if not rows:
        raise DataError("it has no rows")
    reference = reference_of(parts, serving, window.number)
    unseen = survey_of(parts, serving, window, without_labels(parts), False, reference)
    sample = seen_by_champion(parts, serving, window, unseen)
    if sample.outputs is None or not np.isfinite(sample.outputs).all():
        raise DataError("the champion answers some of its rows with what is no number")
    return ask(parts, without_labels(parts), serving, sample, unseen, reference=reference)


def _refuse_unusable(serving: Serving, batch: pd.DataFrame, first: int) -> None:
    """Refuse rows that no model can be fitted to."""
    try:
        inputs = serving.schema.encode(batch)
        serving.schema.encode_labels(batch)
    except DataError:
        raise
    except Exception as error:  # rows that are broken in ways that nothing foresaw
        raise DataError(f"rows {first} to {first + len(batch) - 1}: {type(error).__name__}: {error}") from error
    for name, values in inputs.items():
        if values.dtype.kind == "f" and (infinite := np.isinf(values).reshape(len(values), -1).any(axis=1)).any():
            rows = (first + np.flatnonzero(infinite)).tolist()
            more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
            raise DataError(f"input {name!r} holds infinite values in rows {', '.join(map(str, rows[:3]))}{more}")
