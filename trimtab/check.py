"""Checking a project before it runs: config, source and model, every problem at once, and what the gate needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import discover
from trimtab.data import Data, Role, Rows
from trimtab.errors import DataError, TrimtabError
from trimtab.intervals import rows_needed
from trimtab.metric import choose
from trimtab.parts import (
    comparisons,
    meter_of,
    monitors_of,
    read,
    registry_of,
    runtimes_of,
    sampler_of,
    source_of,
    space_of,
)
from trimtab.recipe import Kitchen, Recipe
from trimtab.rows import golden_rows
from trimtab.settings import Project
from trimtab.space import converter, try_out
from trimtab.technique import Job, Trainer, trainer_named
from trimtab.window import Schema, Source, Window

__all__ = ["examine", "gate_notes"]

DISAGREEING = 0.05
"""Share of rows on which champion and challenger are expected to differ, until a round has shown it."""


def examine(config: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Check a project file as far as it can be checked without training.

    Returns
    -------
    dict
        ``problems`` (each names the setting or column, its value and the way out) and ``notes`` (rows
        of the windows, judged rows that the gate needs, what to change when there are fewer).
    """
    problems: list[str] = []
    notes: list[str] = []
    try:
        project = Project.load(config, overrides)
    except TrimtabError as error:
        return {"problems": str(error).splitlines()[1:] or [str(error)], "notes": []}
    discover.look_beside(config.parent)
    for part in _parts(project):
        with _noted(problems):
            part()
    with _noted(problems):
        for name, settings in project.choices:
            with _noted(problems):
                try_out(name, settings)
    with _noted(problems):
        written = {step.technique for recipe in project.optimize.recipes for step in recipe.steps}
        idle = space_of(project, runtimes_of(project)).unused
        notes.extend(why for label, why in idle.items() if label not in written)
    with _noted(problems):
        source = source_of(project)
        history = read(project, source, 0, source.begins())
        notes.append(_rows_note(source, history))
        schema = _schema(project, history)
        _encode_all(project, source, schema)
        with _noted(problems):
            golden_rows(project, schema, "")
        _try_model(project, schema, history)
        judged = comparisons(project, space_of(project, runtimes_of(project)))
        notes.extend(gate_notes(project, _typical_rows(source), judged))
    return {"problems": list(dict.fromkeys(problems)), "notes": notes}


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except TrimtabError as error:
        problems.append(str(error))


def _parts(project: Project) -> list[Callable[[], object]]:
    """Return what makes each part that the settings name; each says for itself what is wrong with it."""
    return [
        lambda: monitors_of(project),
        lambda: runtimes_of(project),
        lambda: _metric(project),
        lambda: sampler_of(project, space_of(project, runtimes_of(project))),
        lambda: meter_of(project),
        lambda: registry_of(project).ready(),
    ]


def _metric(project: Project) -> None:
    trainer: Trainer = discover.build("trainers", project.model.trainer, project.model.settings, "model")
    choose(project.model.metric, project.model.trainer, trainer.task)


def _schema(project: Project, history: Window) -> Schema:
    if not len(history.frame):
        raise DataError(
            f"no rows before window 1 (window.start {project.window.start!r}) to train the first champion on; "
            "set window.start to an instant or row after the first rows"
        )
    return Schema.freeze(
        project.features,
        history.frame,
        task=trainer_named(project.model.trainer).task,
        label=project.source.label,
        id=project.source.id,
        group=project.data.group,
        timestamp=project.source.timestamp,
    )


def _encode_all(project: Project, source: Source, schema: Schema) -> None:
    """Read the first and the last window as the monitors will."""
    for number in {1, source.last(source.begins())} - {0}:
        window = read(project, source, number, source.begins())
        if len(window.frame):
            schema.encode(window.frame)
            schema.encode_labels(window.frame)


def _try_model(project: Project, schema: Schema, history: Window) -> None:
    """Build the model unfitted, convert it for each target's first runtime, load it, and let it predict."""
    trainer: Trainer = discover.build("trainers", project.model.trainer, project.model.settings, "model")
    runtimes = runtimes_of(project)
    space_of(project, runtimes)
    inputs = schema.encode(history.frame.head(64))
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder) / "float", project.seed, schema)
        job.folder.mkdir()
        draft = trainer.draft(inputs, job)
        count = len(next(iter(inputs.values())))
        labels = np.zeros(count, dtype=np.int64 if schema.classes else np.float64)
        rows = Rows(inputs, labels, np.arange(count, dtype=np.uint64))
        data = Data.write(Path(folder) / "rows", {Role.TRAIN: rows})
        factory = project.model.settings.get("factory")
        kitchen = Kitchen(draft, draft, data, schema, Path(folder) / "steps", project.seed, factory=factory)
        for target in project.targets:
            runtime = runtimes[target.setups[0].word]
            recipe = Recipe(steps=converter(project.choices, runtime.takes, parent=draft.format))
            model = kitchen.build(recipe, runtime.takes).model
            runtime.load(model, target.threads, target.batch).predict(inputs)


def _typical_rows(source: Source) -> int:
    last = source.last(source.begins())
    return len(source.read(max(1, last - 1), source.begins()).frame) if last else 0


def _rows_note(source: Source, history: Window) -> str:
    last = source.last(source.begins())
    return f"{len(history.frame)} rows before window 1, {last} windows of about {_typical_rows(source)} rows"


def gate_notes(project: Project, window_rows: int, judged: int) -> list[str]:
    """Say how many judged rows the gate needs for its settings, and what to change when there are fewer.

    Parameters
    ----------
    window_rows
        Labelled rows of a typical window.
    judged
        Candidates that the gate's confidence is divided among.
    """
    gate, data = project.gate, project.data
    have = int(window_rows * max(1, data.train.windows) * data.split.judge)
    if project.model.metric != "accuracy":
        return [f"a round judges on about {have} rows; how many the gate needs shows in the first round's reasons"]
    needed = rows_needed(DISAGREEING, gate.max_quality_drop, gate.level(judged))
    notes = [
        f"the gate needs about {needed} judged rows to call two models equally good within "
        f"max_quality_drop {gate.max_quality_drop:g} (confidence {gate.confidence:g} over "
        f"{judged} judged candidates that differ on {DISAGREEING:.0%} of rows); a round has {have}"
    ]
    if have >= needed or not window_rows:
        return notes
    margin = gate.max_quality_drop * (needed / max(1, have)) ** 0.5
    windows = -(-needed // max(1, int(window_rows * data.split.judge)))
    notes.append(
        "fewer than it needs: a challenger must be better, not merely as good, unless you set "
        f"gate.max_quality_drop: {margin:.3f}, or data.train: last {windows} windows, or fewer optimize.finalists"
    )
    return notes
