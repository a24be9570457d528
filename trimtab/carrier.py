"""Who carries the loop: this process alone, or an orchestrator that a plugin brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from trimtab import loop, round
from trimtab.executor import Progress
from trimtab.history import Round
from trimtab.loop import Report
from trimtab.parts import assemble
from trimtab.settings import Project

__all__ = ["Carrier", "DirectCarrier"]


class Carrier(Protocol):
    """Runs the loop's functions on a project file; adds schedule, retries and a record of its own."""

    name: ClassVar[str]

    def watch(self, config: Path, overrides: Sequence[str], replay: bool, progress: Progress) -> list[Report]:
        """Look at every window that has closed (or, in a replay, at all) and act."""
        ...

    def optimize(self, config: Path, overrides: Sequence[str], reason: str, who: str, progress: Progress) -> Round:
        """Run a round that a person asks for."""
        ...


class DirectCarrier:
    """Runs the loop in this process, with nothing around it."""

    name: ClassVar[str] = "direct"

    def watch(self, config: Path, overrides: Sequence[str], replay: bool, progress: Progress) -> list[Report]:
        """Look and act."""
        parts = assemble(Project.load(config, overrides), beside=config.parent, progress=progress)
        return list(loop.watch(parts, replay=replay))

    def optimize(self, config: Path, overrides: Sequence[str], reason: str, who: str, progress: Progress) -> Round:
        """Run one round."""
        parts = assemble(Project.load(config, overrides), beside=config.parent, progress=progress)
        return round.optimize(parts, round.request_by_hand(parts, reason, who))
