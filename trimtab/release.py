"""Releasing a window: a person says that what was found broken is right, or was mended, and it counts again."""

from __future__ import annotations

from trimtab import champion
from trimtab.errors import DataError, InputError, ReadError
from trimtab.look import look_again
from trimtab.monitor import Finding
from trimtab.parts import Parts

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
        problems, findings = look_again(parts, serving, parts.window(number))
    except ReadError:
        raise
    except DataError as error:
        raise DataError(f"window {number} stays in quarantine: {error}; mend its rows in the source first") from error
    parts.journal.record_findings(findings, serving.version, windows[-1])
    parts.journal.release(number, who, reason)
    return problems, findings
