"""Backtesting: stored windows are replayed under several triggers and gates, in a folder beside the live project."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trimtab import discover, loop
from trimtab.artifact import fill_folder
from trimtab.errors import TrimtabError
from trimtab.executor import Progress
from trimtab.fileregistry import FileRegistry
from trimtab.journal import Journal
from trimtab.monitor import Answer
from trimtab.parts import Parts, assemble, read, source_of
from trimtab.policy import Variant, variants
from trimtab.sections import JournalSettings, PromotionSettings, RegistrySettings
from trimtab.settings import Project
from trimtab.status import mean_quality, seconds_by_round, window_rows
from trimtab.stretch import EndingSource, Stretch
from trimtab.window import Source

__all__ = ["backtest"]

ALARMS = (Answer.MOVED, Answer.WORSE, Answer.BROKEN)


def backtest(
    config: Path,
    overrides: Sequence[str],
    progress: Progress,
    *,
    begin: str | None = None,
    end: str | None = None,
    triggers: Sequence[str] = (),
    gates: Sequence[str] = (),
    beside: bool = False,
    afresh: bool = False,
) -> dict[str, Any]:
    """Replay a project's stored windows under every pair of a trigger and a gate.

    The loop is the project's, with a journal and a registry of its own below ``HOME/backtest``. A step or a
    measurement that one replay needed is there for the others. Cut off and asked again, it goes on.

    Parameters
    ----------
    config, overrides
        The project file, and what is set beside it.
    begin, end
        First and last window, as :meth:`trimtab.stretch.Stretch.of` reads them; the rows before the first train
        the first champion.
    triggers, gates
        As :func:`trimtab.policy.variants` reads them; none: the project's own.
    beside
        Whether to add the fixed policies: a round never, after every window, after every third.
    afresh
        Whether to forget earlier replays with the same settings; what was built and measured is kept.

    Returns
    -------
    dict
        ``project``, ``metric``, ``windows`` (``first``, ``last``) and ``rows``, one for each replay: what
        :func:`told` says, or ``failed`` with the reason.

    Raises
    ------
    TrimtabError
        When a setting, the source or the live journal is not as it must be; what fails in one replay is its row.
    """
    asked = variants(config, overrides, triggers, gates, beside)
    project = asked[0].project
    ground = _prepare(project, config.parent, begin, end)
    rows = []
    with progress.stage("backtest", len(asked)) as advance:
        for variant in asked:
            progress.say(f"replaying {variant.name}")
            rows.append(_row(ground, variant, progress, afresh))
            advance(variant.name)
    named = project.model.metric
    return {
        "project": project.name,
        "metric": named if isinstance(named, str) else next(iter(named)),
        "windows": {"first": ground.stretch.first, "last": ground.stretch.last},
        "rows": rows,
    }


@dataclass(frozen=True)
class Ground:
    """What all replays of a backtest share.

    Parameters
    ----------
    folder
        Everything of theirs lies in it.
    beside
        Folder whose modules the project's factory may come from.
    source
        Gives the whole stream, and holds what it has read.
    stretch
        The windows to replay.
    start
        Where the first of them begins (nanoseconds since 1970, or a row number).
    split_key
        The live project's: a row has the role that it has there.
    """

    folder: Path
    beside: Path
    source: Source
    stretch: Stretch
    start: int
    split_key: str


def _prepare(project: Project, beside: Path, begin: str | None, end: str | None) -> Ground:
    discover.look_beside(beside)
    source = source_of(project)
    split_key, start = _sealed(project)
    start = source.begins() if start is None else start
    stretch = Stretch.of(source, start, begin, end)
    first = read(project, source, stretch.first, start).span.start
    folder = project.folder / "backtest"
    _borrow(project.folder / "steps", folder / "store" / "steps")
    return Ground(folder, beside, source, stretch, first, split_key)


def _sealed(project: Project) -> tuple[str, int | None]:
    """Return the split key and the start of window 1: those that the live project fixed, where it ran."""
    new = (f"{project.name}:{project.seed}", None)
    if project.journal.url is None and not (project.folder / "journal.db").is_file():
        return new
    journal = Journal(project.journal_url, project.name)
    try:
        return journal.fixed() if project.name in journal.projects() else new
    finally:
        journal.engine.dispose()


def _borrow(live: Path, store: Path) -> None:
    """Take over what the live project has built, as links: it takes no room, and nothing of it is written to."""
    for step in live.glob("[!.]*"):
        if not (store / step.name).is_dir():
            with fill_folder(store / step.name) as draft:
                shutil.copytree(step, draft, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one that has no links
        shutil.copy2(source, target)


def _row(ground: Ground, variant: Variant, progress: Progress, afresh: bool) -> dict[str, Any]:
    """Replay one variant and tell what came of it; what it raises is told, and the others go on."""
    folder = ground.folder / _fingerprint(ground, variant.project)
    if afresh and folder.is_dir():
        shutil.rmtree(folder)
    row: dict[str, Any] = {"trigger": variant.trigger, "gate": variant.gate, "folder": str(folder), "failed": None}
    try:
        parts = _open(ground, variant.project, folder, progress)
        for _ in loop.watch(parts, replay=True):
            pass
        return row | told(parts, ground.stretch)
    except TrimtabError as error:
        return row | {"failed": str(error)}


def _fingerprint(ground: Ground, project: Project) -> str:
    """Return a digest of all that a replay follows from and its journal does not notice: else it begins anew."""
    settings = project.model_dump(mode="json", exclude={"home", "registry", "journal", "trigger"})
    code = discover.source_digest(project.model.settings.get("factory"), "model.factory")
    code += getattr(discover.build("trainers", project.model.trainer, project.model.settings, "model"), "digest", "")
    where = [ground.start, len(ground.stretch), ground.split_key]
    cause = [settings, repr(project.trigger), code, where, version("trimtab")]
    return hashlib.sha256(json.dumps(cause, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _open(ground: Ground, project: Project, folder: Path, progress: Progress) -> Parts:
    """Connect the parts of a replay: the project's, but for what would touch the live one."""
    own = project.model_copy(
        update={
            "home": folder,
            "journal": JournalSettings(),
            "registry": RegistrySettings(),
            "promotion": PromotionSettings(),  # nobody is there to approve
        }
    )
    Journal(own.journal_url, own.name).begin(own.model_dump_json(), ground.split_key, own.sealed)
    parts = assemble(own, beside=ground.beside, progress=progress, registry=FileRegistry(folder / "registry"))
    parts.journal.fix_start(ground.start)
    source = EndingSource(ground.source, len(ground.stretch))
    return dataclasses.replace(parts, source=source, store=ground.folder / "store")


def told(parts: Parts, stretch: Stretch) -> dict[str, Any]:
    """Tell what came of a replay, as JSON values; windows have their numbers in the whole stream.

    Returns
    -------
    dict
        ``alarms``: numbers of the windows that were found moved, worse and broken. ``rounds``: each with its
        ``window``, ``cause``, ``outcome`` and ``minutes`` of building and measuring, whenever and by
        whichever replay that was done. ``promotions``: of the first target. ``minutes``: of all rounds.
        ``built``, ``reused``: steps. ``quality``: see :func:`trimtab.status.mean_quality`. ``over_time``:
        what was decided, who served and how well, by window. ``errors``: what somebody has to mend.
    """
    journal, before = parts.journal, stretch.first - 1
    found = [finding for _, finding in journal.findings()]
    spent = seconds_by_round(journal)
    rounds = [r for r in journal.rounds() if r.cause != "first"]
    steps = [detail for _, _, detail in journal.records("step")]
    return {
        "alarms": {str(answer): sorted({f.window + before for f in found if f.answer is answer}) for answer in ALARMS},
        "rounds": [
            {
                "window": r.window + before,
                "cause": r.cause,
                "outcome": r.outcome,
                "minutes": spent.get(r.operation, 0.0) / 60,
            }
            for r in rounds
        ],
        "promotions": sum(p.kind == "promote" for p in journal.promotions()),
        "minutes": math.fsum(spent.get(r.operation, 0.0) for r in rounds) / 60,
        "built": sum(bool(step["fresh"]) for step in steps),
        "reused": sum(not step["fresh"] for step in steps),
        "quality": mean_quality(journal),
        "over_time": list(_over_time(journal, before)),
        "errors": [dict(detail) for _, _, detail in journal.records("error")],
    }


def _over_time(journal: Journal, before: int) -> Iterator[Mapping[str, Any]]:
    for row in window_rows(journal):
        shown = {key: row[key] for key in ("finding", "decision", "champion", "quality", "labelled_rows")}
        yield {"window": row["window"] + before, **shown}
