"""The first champion: trained on the rows before the stream, exported, registered, and made the anchor."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from trimtab import champion, discover, rows
from trimtab.artifact import Model, fill_folder
from trimtab.entry import Entry, Trial
from trimtab.errors import ArtifactError, DataError, InputError, PluginError, TrimtabError
from trimtab.lineage import Context, outcome_tags, with_promoted
from trimtab.loadable import Loadable
from trimtab.monitor import Answer, Sample, case_of
from trimtab.parts import Parts
from trimtab.pick import Pick
from trimtab.recipe import Kitchen, Recipe
from trimtab.round import log_candidates, register
from trimtab.runtime import CHAMPION, Target
from trimtab.serving import Serving
from trimtab.space import converter
from trimtab.stand import bench_of
from trimtab.technique import Job
from trimtab.window import Schema, Window

__all__ = ["begin"]


def begin(parts: Parts) -> Serving:
    """Train, export, measure, register and promote the first champion; every part of it is done once.

    Raises
    ------
    DataError
        When there are no rows before window 1, or they are not what the settings say.
    PluginError
        When the trainer or the factory raises, or the model does not export.
    """
    asked = parts.journal.request_round(f"{parts.project.name}:first", 0, "first", ["the first champion"])
    history = parts.window(0)
    if not len(history.frame):
        raise DataError(
            f"no rows before window 1 (window.start {parts.project.window.start!r}) to train the first champion on; "
            "set window.start to an instant or row after the first rows"
        )
    features, data = parts.project.features, parts.project.data
    schema = Schema.freeze(
        features,
        history.frame,
        task=parts.trainer.task,
        label=parts.project.source.label,
        id=parts.project.source.id,
        group=data.group,
        timestamp=parts.project.source.timestamp,
    )
    with parts.progress.stage("first champion", 4) as advance:
        advance("split the rows before the stream")
        _refuse_broken(parts, schema, history)
        cause = _cause(parts, schema, history)
        prepared = rows.prepare(parts, f"{asked.operation}:{cause}", schema, rows.Selection((0,)))
        advance("train")
        parent = parts.executor.call("train", _fit, parts, schema, prepared)
        advance("export and measure")
        context, measured = Context(asked, schema, prepared, None), dict[Recipe, Entry]()
        try:
            for alias, target in parts.project.aliases.items():
                entry = _export(parts, context, parent, measured, alias, target)
                measured[entry.recipe] = entry
        except (ArtifactError, InputError):
            shutil.rmtree(parent.folder.parent)  # the factory's code may be mended, and what it gave before is void
            raise
        advance("register")
        return _register(parts, context, measured)


def _refuse_broken(parts: Parts, schema: Schema, history: Window) -> None:
    """Let the guards look at the rows before the stream, beside themselves: broken rows are never trained on."""
    sample = Sample(schema, history.frame)
    for guard in (m for m in parts.monitors if m.guards):
        try:
            finding = guard.check(case_of(guard, sample, sample, parts.project.monitors.false_alarms))
        except TrimtabError:
            raise
        except Exception as error:  # a plugin may raise anything
            raise PluginError(
                f"monitor {guard.name!r} raised {type(error).__name__} on the rows before window 1: {error}; "
                "mend it, or take it out of monitors.use"
            ) from error
        if finding.answer is Answer.BROKEN:
            raise DataError(f"the rows before window 1 are broken: {'; '.join(finding.reasons)}")


def _cause(parts: Parts, schema: Schema, history: Window) -> str:
    """Return a digest of rows and settings: an attempt that failed binds no later one to what was mended since."""
    frame = history.frame
    sha = hashlib.sha256(f"{schema.model_dump_json()}{parts.project.data.model_dump_json()}".encode())
    for array in (*schema.encode(frame).values(), schema.encode_labels(frame)):
        sha.update(array.tobytes())
    for name in (schema.id, schema.group):
        sha.update(repr(frame[name].tolist() if name in frame else None).encode())
    return sha.hexdigest()[:12]


def _fit(parts: Parts, schema: Schema, prepared: rows.Prepared) -> Model:
    code = discover.source_digest(parts.project.model.settings.get("factory"), "model.factory")
    code += getattr(parts.trainer, "digest", "")
    model = f"{prepared.data.digest}{parts.project.model.model_dump_json()}{parts.project.seed}{code}"
    folder = parts.steps / f"first-{hashlib.sha256(model.encode()).hexdigest()[:24]}"
    if not folder.is_dir():
        with fill_folder(folder) as draft:
            job = Job(_made(draft / "model"), parts.project.seed, schema, None, parts.project.optimize.threads)
            try:
                parts.trainer.fit(prepared.data, job)
            except TrimtabError:
                raise
            except Exception as error:  # a trainer may raise anything; the message must name it
                raise PluginError(
                    f"trainer {parts.project.model.trainer!r} raised {type(error).__name__}: {error}"
                ) from error
    return Model.at(folder / "model", parts.trainer.gives)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _export(
    parts: Parts, context: Context, parent: Model, measured: Mapping[Recipe, Entry], alias: str, target: Target
) -> Entry:
    """Convert the model for a target's first runtime, and measure it there, beside itself."""
    setup = target.setups[0]
    formats = parts.runtime(setup).takes
    recipe = Recipe(steps=converter(parts.project.choices, formats, parent=parent.format))
    settings = parts.project.model.settings
    kitchen = Kitchen(
        parent,
        parent,
        context.prepared.data,
        context.schema,
        parts.steps,
        parts.project.seed,
        factory=settings.get("factory"),
        training=parts.training,
    )
    candidate = kitchen.build(recipe, formats, parts.executor.call)
    factory = settings.get("factory")
    itself = Loadable(setup.runtime, candidate.model, setup.made_with(factory))
    bench = dataclasses.replace(bench_of(parts, context, alias, itself), golden=None)
    call, level = parts.executor.call, parts.project.gate.confidence
    glance = call(f"look at {candidate.name}", bench.glance, candidate, setup)
    scores = call(f"benchmark {candidate.name}", bench.measure, itself, level)
    before = measured.get(recipe)
    trials = {} if before is None else before.trials
    return Entry(recipe, candidate, trials={**trials, alias: Trial(setup, glance, scores)})


def _register(parts: Parts, context: Context, measured: Mapping[Recipe, Entry]) -> Serving:
    """Register a version for every runtime, and make it the first champion of the targets that begin on it."""
    entries, operation = list(measured.values()), context.asked.operation
    run = parts.registry.log_round(context.round_log(parts))
    logged = log_candidates(parts, context, run, entries)
    chosen = {alias: next(e for e in entries if alias in e.trials) for alias in parts.project.aliases}
    versions = register(parts, context, run, chosen, logged)
    epoch = 0
    for alias, version in versions.items():
        once = operation if alias == CHAMPION else f"{operation}:{alias}"
        promotion = champion.promote(parts, once, version.number, epoch, "first", {}, alias)
        epoch = promotion.epoch if promotion is not None else epoch
    first = versions[CHAMPION]
    parts.registry.close_round(run, "promoted", outcome_tags("promoted", first.number))
    won = {a: Pick(entry, "the first") for a, entry in chosen.items()}
    detail = with_promoted(context.detail(parts, entries, won, versions, None, []), list(versions))
    parts.journal.close_round(operation, "promoted", detail)
    return champion.load(parts, first.number)
