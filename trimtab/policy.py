"""What a backtest compares: triggers and gates as the command line gives them, and policies that look at nothing."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from trimtab.errors import SettingsError
from trimtab.gate import Gate
from trimtab.settings import Project
from trimtab.trigger import Trigger

__all__ = ["OWN", "Variant", "variants"]

OWN = "project"
"""Names the section of the project file as it stands."""


FIXED = {
    "never": Trigger(on=()),
    "every window": Trigger(on=("every 1 window",), cooldown=0),
    "every third window": Trigger(on=("every 3 windows",), cooldown=0),
}


@dataclass(frozen=True)
class Variant:
    """A project under one trigger and one gate.

    Parameters
    ----------
    trigger, gate
        As they were given, or the name of a fixed policy.
    project
        The settings.
    """

    trigger: str
    gate: str
    project: Project

    @property
    def name(self) -> str:
        """How a person reads it."""
        return self.trigger if self.gate == OWN else f"{self.trigger}, gate {self.gate}"


def variants(
    config: Path, overrides: Sequence[str], triggers: Sequence[str], gates: Sequence[str], beside: bool
) -> list[Variant]:
    """Return every pair of a trigger and a gate.

    Parameters
    ----------
    config, overrides
        The project file, and what is set beside it.
    triggers, gates
        Settings such as ``on=worse,moved; confirm=3 of 5``, in place of those of the project file's section;
        ``project``: that section as it stands, as where none is given.
    beside
        Whether to add the fixed policies.

    Raises
    ------
    SettingsError
        Naming the key, its value and the rule, as for the project file.
    """
    made = []
    for gate in dict.fromkeys(gates or (OWN,)):
        under = [*overrides, *_settings("gate", Gate, gate)]
        for trigger in dict.fromkeys(triggers or (OWN,)):
            made.append(Variant(trigger, gate, Project.load(config, [*under, *_settings("trigger", Trigger, trigger)])))
        for name, policy in FIXED.items() if beside else ():
            made.append(Variant(name, gate, Project.load(config, under).model_copy(update={"trigger": policy})))
    return made


def _settings(section: str, model: type[BaseModel], given: str) -> Iterator[str]:
    """Yield what is given on the command line as ``section.key=value``.

    Examples
    --------
    >>> list(_settings("trigger", Trigger, "on=worse,moved; confirm=3 of 5"))
    ['trigger.on=[worse,moved]', 'trigger.confirm=3 of 5']
    """
    if given.strip() == OWN:
        return
    for item in given.split(";"):
        key, sign, value = (part.strip() for part in item.partition("="))
        if not sign or not key:
            raise SettingsError(
                f"--{section} {given!r}: {item.strip()!r} is not of the form key=value; write several with semicolons "
                f"between them, such as 'on=worse,moved; confirm=3 of 5', or {OWN!r} for the project file's own"
            )
        field = model.model_fields.get(key)
        listed = field is not None and Ellipsis in typing.get_args(field.annotation)
        yield f"{section}.{key}={f'[{value}]' if listed and not value.startswith('[') else value}"
