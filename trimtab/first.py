"""The first champion: trained on the rows before the stream, exported, registered, and made the anchor."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from trimtab import champion, rows
from trimtab.artifact import Model, fill_folder
from trimtab.entry import Entry
from trimtab.errors import ArtifactError, DataError, InputError, PluginError, SettingsError, TrimtabError
from trimtab.evidence import Bench
from trimtab.journal import Round
from trimtab.lineage import Context
from trimtab.monitor import Answer, Sample
from trimtab.parts import Parts
from trimtab.recipe import Kitchen, Recipe
from trimtab.round import log_candidates
from trimtab.search import converter
from trimtab.serving import Serving
from trimtab.technique import FLOAT, Job
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
        prepared = rows.prepare(parts, f"{asked.operation}:{_cause(parts, schema, history)}", schema, [0])
        advance("train")
        parent = parts.executor.call("train", _fit, parts, schema, prepared)
        advance("export and measure")
        try:
            entry = _export(parts, asked, schema, prepared, parent)
        except (ArtifactError, InputError):
            shutil.rmtree(parent.folder.parent)  # the factory's code may be mended, and what it gave before is void
            raise
        advance("register")
        return _register(parts, Context(asked, schema, prepared, None), entry)


def _refuse_broken(parts: Parts, schema: Schema, history: Window) -> None:
    """Let the guards look at the rows before the stream, beside themselves: broken rows are never trained on."""
    sample = Sample(schema, history.frame)
    for guard in (m for m in parts.monitors if m.guards):
        try:
            finding = guard.check(sample, sample, parts.project.monitors.false_alarms)
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
    model = f"{prepared.data.digest}{parts.project.model.model_dump_json()}{parts.project.seed}"
    folder = parts.folder / "steps" / f"first-{hashlib.sha256(model.encode()).hexdigest()[:24]}"
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
    return Model.at(folder / "model", FLOAT)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _export(parts: Parts, asked: Round, schema: Schema, prepared: rows.Prepared, parent: Model) -> Entry:
    recipe = Recipe(steps=(converter(parts.project.optimize.choices, parts.runtime.takes[0]),))
    kitchen = Kitchen(parent, prepared.data, schema, parts.folder / "steps", parts.project.seed)
    candidate = parts.executor.call("export", kitchen.build, recipe, parts.runtime.takes[0])
    bench = Bench(
        folder=parts.folder / "rounds" / rows.slug(asked.operation) / "evidence",
        runtime=parts.runtime,
        target=parts.project.target,
        champion=candidate.model,
        data=prepared.data,
        golden=None,
        confidence=parts.project.gate.confidence,
        seed=parts.project.seed,
    )
    scores = parts.executor.call("benchmark", bench.measure, candidate.fingerprint, candidate.model)
    return Entry(recipe, candidate, None, scores)


def _register(parts: Parts, context: Context, entry: Entry) -> Serving:
    if entry.candidate is None:
        raise SettingsError(f"recipe {entry.recipe.name!r} built nothing")
    run = parts.registry.log_round(context.round_log(parts))
    logged = log_candidates(parts, context, run, [entry])
    version = context.register(parts, entry, entry.candidate, logged[entry.recipe.name])
    champion.promote(parts, context.asked.operation, version.number, 0, "first", {})
    parts.registry.close_round(run, "promoted", context.outcome_tags("promoted", version))
    parts.journal.close_round(context.asked.operation, "promoted", context.detail([entry], entry, version))
    return champion.load(parts, version.number)
