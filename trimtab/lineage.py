"""How a round is told to the registry and the journal: runs, datasets, tags, packages, descriptions."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import rows
from trimtab.artifact import fill_folder, write_json
from trimtab.benchmark import Scores
from trimtab.candidate import Candidate
from trimtab.data import Role
from trimtab.entry import Entry, Glance, Trial
from trimtab.history import Round
from trimtab.parts import Parts
from trimtab.pick import Pick
from trimtab.registry import CandidateLog, DatasetLog, RoundLog, Version
from trimtab.runtime import CHAMPION, Setup
from trimtab.serving import Serving
from trimtab.window import Schema

__all__ = ["Context", "describe", "outcome_tags", "package", "with_promoted"]


@dataclass(frozen=True)
class Context:
    """What a round stands in.

    Parameters
    ----------
    asked
        The round.
    schema
        Of its rows.
    prepared
        Its rows on disk.
    champion
        The version that it wants to improve on, or None at the first.
    """

    asked: Round
    schema: Schema
    prepared: rows.Prepared
    champion: Serving | None

    @property
    def ancestry(self) -> dict[str, str]:
        """Tags that every run and version of the round carries."""
        parent = str(self.champion.version) if self.champion is not None else "none"
        return {
            "trimtab.round": self.asked.operation,
            "trimtab.trigger": self.asked.cause,
            "trimtab.window": str(self.asked.window),
            "trimtab.reasons": "; ".join(self.asked.reasons)[:5000],
            "trimtab.parent_version": parent,
            "trimtab.data_digest": self.prepared.data.digest,
        }

    def round_log(self, parts: Parts) -> RoundLog:
        """Describe the round and its data."""
        counts = self.prepared.counts
        windows = [parts.window(number) for number in counts["windows"]]
        label, source = self.schema.label, parts.project.source.path
        datasets = [DatasetLog(f"window-{w.number}", "training", w.frame, source, label) for w in windows]
        datasets.append(DatasetLog("reference", "reference", self.prepared.reference, source, label))
        return RoundLog(
            operation=self.asked.operation,
            name=self.asked.operation.removeprefix(f"{parts.project.name}:"),
            tags=self.ancestry,
            params={f"rows.{k}": str(v) for k, v in counts.items()} | {"seed": str(parts.project.seed)},
            datasets=datasets,
            reports=self._reports(parts),
        )

    def _reports(self, parts: Parts) -> list[Path]:
        """Return the pages that were written about windows since the round before."""
        rounds = [r.operation for r in parts.journal.rounds()]
        before = [r.window for r in parts.journal.rounds()[: rounds.index(self.asked.operation)]]
        since = max(before, default=0)
        told = (d for _, _, d in parts.journal.records("report") if since < d["closed"] <= self.asked.window)
        return [path for path in dict.fromkeys(Path(d["path"]) for d in told) if path.is_file()]

    def candidate_log(self, parts: Parts, entry: Entry, alias: str | None = None) -> CandidateLog:
        """Describe one candidate, also a failed one.

        Parameters
        ----------
        alias
            Of the target on whose runtime it is told; that of the first that it was looked at on, unless told.
        """
        candidate = entry.candidate
        first = next(iter(entry.trials.values()), None)
        trial = first if alias is None else entry.trials[alias]
        elsewhere = first is not None and trial is not None and trial.setup.word != first.setup.word
        name = entry.recipe.name if trial is None or not elsewhere else f"{entry.recipe.name} on {trial.setup.word}"
        tags = self.ancestry | {"trimtab.recipe": entry.recipe.name}
        for target in parts.project.aliases:
            mark = target.removeprefix(CHAMPION).replace("-", ".", 1)
            tags[f"trimtab.verdict{mark}"] = entry.outcome(target)
            tags[f"trimtab.verdict_reasons{mark}"] = "; ".join(entry.reasons(target))[:5000]
            if target in entry.trials:
                tags[f"trimtab.runtime{mark}"] = entry.trials[target].setup.word
                scores = entry.trials[target].scores
                if scores is not None:
                    tags[f"trimtab.host{mark}"] = scores.latency.host
        if entry.error is not None:
            tags["trimtab.error"] = entry.error[:5000]
        if candidate is not None:
            tags["trimtab.fingerprint"] = candidate.fingerprint
        example, outputs = self._example(parts, entry, trial)
        return CandidateLog(
            operation=f"{self.asked.operation}:candidate:{name}:{_print(candidate)}",
            name=name,
            tags=tags,
            params=_params(entry),
            metrics=_all_metrics(entry) | ({"build_seconds": candidate.seconds} if candidate is not None else {}),
            model=candidate.model if candidate is not None and entry.trials else None,
            example=example,
            outputs=outputs,
            setup=None if trial is None else _with_factory(parts, trial.setup),
            failed=entry.error is not None,
        )

    def _example(self, parts: Parts, entry: Entry, trial: Trial | None) -> tuple[dict[str, Any], dict[str, Any]]:
        if entry.candidate is None or trial is None:
            return {}, {}
        inputs = dict(self.prepared.data.rows(Role.TRAIN).take(np.arange(min(2, self.prepared.counts["train"]))).inputs)
        return inputs, parts.runtime(trial.setup).load(entry.candidate.model).run(inputs)

    def detail(
        self,
        parts: Parts,
        entries: Sequence[Entry],
        won: Mapping[str, Pick],
        versions: Mapping[str, Version],
        challenger: Version | None,
        spared: Sequence[str],
    ) -> dict[str, Any]:
        """Return the round's candidates, targets and rows as JSON, for the journal.

        Parameters
        ----------
        won, versions
            What was picked, and registered, by the alias of each target's champion.
        challenger
            What came nearest to a winner on the first target and was registered for a person to look at, or None.
        spared
            What the rungs of the ladder that were not climbed would have cost, in words.
        """
        winners = {alias: pick.entry for alias, pick in won.items()}
        targets = {
            alias: {
                "winner": pick.entry.recipe.name,
                "why": pick.why,
                "runtime": pick.entry.trials[alias].setup.word,
                "version": versions[alias].number if alias in versions else None,
            }
            for alias, pick in won.items()
        }
        version = versions.get(CHAMPION, challenger)
        return {
            "rows": self.prepared.counts,
            "candidates": [describe(e, [a for a, w in winners.items() if w is e]) for e in entries],
            "targets": targets,
            "spared": list(spared),
            "untrained": parts.untrained,
            "version": None if version is None else version.number,
            "champion": None if self.champion is None else self.champion.version,
        }

    def register(
        self, parts: Parts, entry: Entry, candidate: Candidate, alias: str, setup: Setup, candidate_run: str
    ) -> Version:
        """Put the candidate's package together, for one runtime, and register it as a version."""
        built = f"{candidate.fingerprint}-{setup.slug}"
        folder = parts.folder / "rounds" / rows.slug(self.asked.operation) / f"package-{built}"
        package(folder, candidate, self.schema, self.prepared, self.champion, entry, setup)
        tags = self.ancestry | {
            "trimtab.recipe": entry.recipe.name,
            "trimtab.fingerprint": candidate.fingerprint,
            "trimtab.runtime": setup.word,
            "trimtab.verdict": entry.outcome(alias),
        }
        return parts.registry.create_version(
            candidate_run,
            f"{self.asked.operation}:version:{built}",
            folder,
            tags,
            _description(self, entry, alias, setup),
        )


def _with_factory(parts: Parts, setup: Setup) -> Setup:
    """Return a runtime with all that it is made with."""
    return Setup(setup.runtime, setup.made_with(parts.project.model.settings.get("factory")))


def with_promoted(detail: Mapping[str, Any], promoted: Collection[str]) -> dict[str, Any]:
    """Return a round's detail with what became of each target's winner.

    Parameters
    ----------
    promoted
        Aliases that moved.
    """
    targets = {alias: {**told, "promoted": alias in promoted} for alias, told in detail["targets"].items()}
    return {**detail, "targets": targets}


def outcome_tags(outcome: str, version: int | None) -> dict[str, str]:
    """Return the tags that a closed round's run gets."""
    return {"trimtab.outcome": outcome, "trimtab.version": "" if version is None else str(version)}


def _print(candidate: Candidate | None) -> str:
    """Tell a candidate that was built from one of the same recipe that was not: taken up again it may be."""
    return "not built" if candidate is None else candidate.fingerprint


def package(
    folder: Path,
    candidate: Candidate,
    schema: Schema,
    prepared: rows.Prepared,
    champion: Serving | None,
    entry: Entry,
    setup: Setup,
) -> None:
    """Put together everything that a version consists of: what serves and with what, its parent, schema, reference."""
    if folder.is_dir():
        return
    fitted = [prepared.fitted, *([champion.fitted] if champion is not None else [])]
    with fill_folder(folder) as draft:
        shutil.copytree(candidate.model.folder, draft / "model")
        shutil.copytree(candidate.parent.folder, draft / "parent")
        if candidate.lean.digest != candidate.parent.digest:
            shutil.copytree(candidate.lean.folder, draft / "lean")
        served = {"runtime": setup.runtime, "settings": dict(setup.settings), "format": candidate.model.format}
        served["parent"] = candidate.parent.format
        write_json(draft / "serving.json", served)
        write_json(draft / "schema.json", schema.model_dump(mode="json"))
        write_json(draft / "recipe.json", entry.recipe.model_dump(mode="json"))
        steps = [{"fingerprint": s.fingerprint, "technique": s.technique, "effort": s.effort} for s in candidate.steps]
        write_json(draft / "steps.json", steps)
        shutil.copyfile(prepared.folder / "reference.parquet", draft / "reference.parquet")
        groups = np.unique(np.concatenate(fitted))
        np.savez(draft / "fitted.npz", groups=groups, reference=prepared.reference_groups)


def metrics(scores: Scores | None) -> dict[str, float]:
    """Return scores as metrics with their units in the names."""
    if scores is None:
        return {}
    quality, latency, energy = scores.quality, scores.latency, scores.energy
    named: dict[str, float | None] = {
        "quality": quality.judged.value,
        "quality_low": quality.judged.low,
        "quality_high": quality.judged.high,
        "quality_search": quality.searched,
        "quality_golden": quality.golden,
        "p50_ms": latency.p50_ms,
        "p95_ms": latency.p95_ms,
        "p99_ms": latency.p99_ms,
        "rows_per_second": latency.throughput,
        "speedup": latency.speedup.value,
        "speedup_low": latency.speedup.low,
        "speedup_high": latency.speedup.high,
        "size_bytes": float(scores.size_bytes),
        "parameters": scores.parameters,
        "multiply_adds": scores.multiply_adds,
        "peak_mb": scores.peak_mb,
        "joules_per_1000_rows": energy.joules_per_1000_rows if energy is not None else None,
        "carbon_g_per_1000_rows": energy.carbon_g_per_1000_rows if energy is not None else None,
        "cost_per_1000_rows": energy.cost_per_1000_rows if energy is not None else None,
    }
    return {k: float(v) for k, v in named.items() if v is not None and np.isfinite(v)}


def look(glance: Glance) -> dict[str, float]:
    """Return a first look as metrics, whose names say that it is no more than that."""
    named = {
        "quality_search": glance.quality,
        "look_p50_ms": glance.p50_ms,
        "look_speedup": glance.speedup.value,
        "size_bytes": float(glance.size_bytes),
    }
    return {k: v for k, v in named.items() if np.isfinite(v)}


def _all_metrics(entry: Entry) -> dict[str, float]:
    """Return a candidate's metrics on every target; those of the second and later ones begin with its name."""
    named: dict[str, float] = {}
    for alias, trial in entry.trials.items():
        prefix = alias.removeprefix(CHAMPION).removeprefix("-")
        told = look(trial.glance) | metrics(trial.scores)
        named |= {f"{prefix}.{k}" if prefix else k: v for k, v in told.items()}
    return named


def describe(entry: Entry, won: Sequence[str]) -> dict[str, Any]:
    """Return one candidate as JSON, for tables: what it showed on the first target, and on each.

    Parameters
    ----------
    won
        Aliases of the targets on which it won.
    """
    facts = entry.candidate.model.facts if entry.candidate is not None else {}
    shown = [*entry.trials, *entry.failures]
    targets = {alias: _on_target(entry, alias, alias in won) for alias in shown}
    first = targets.get(CHAMPION) or _on_target(entry, CHAMPION, False)
    return {
        "recipe": entry.recipe.name,
        "steps": entry.recipe.model_dump(mode="json"),
        **first,
        "targets": targets,
        "fingerprint": entry.candidate.fingerprint if entry.candidate is not None else None,
        "seconds": entry.candidate.seconds if entry.candidate is not None else None,
        "facts": facts,
    }


def _on_target(entry: Entry, alias: str, won: bool) -> dict[str, Any]:
    trial = entry.trials.get(alias)
    scores = trial.scores if trial is not None else None
    return {
        "outcome": entry.outcome(alias),
        "won": won,
        "gains": list(trial.verdict.gains) if trial is not None and trial.verdict is not None else [],
        "reasons": list(entry.reasons(alias)),
        "runtime": trial.setup.word if trial is not None else None,
        "look": look(trial.glance) if trial is not None else {},
        "metrics": metrics(scores),
        "contended": scores.latency.contended if scores is not None else None,
        "host": scores.latency.host if scores is not None else None,
        "energy_method": scores.energy.method if scores is not None and scores.energy is not None else None,
        "judge_rows": len(scores.judged) if scores is not None else 0,
    }


def _params(entry: Entry) -> dict[str, str]:
    flat = {
        f"{i}.{step.technique}.{key}": str(value)
        for i, step in enumerate(entry.recipe.steps)
        for key, value in dataclasses.asdict(step.load()).items()  # type: ignore[call-overload]
    }
    return {"recipe": entry.recipe.name, "start": entry.recipe.start} | flat


def _description(context: Context, entry: Entry, alias: str, setup: Setup) -> str:
    champion = context.champion
    came = "the first champion" if champion is None else f"cut from the parent of version {champion.version}"
    if champion is not None and entry.recipe.start == "champion":
        came = f"version {champion.version}, adapted"
    lines = [
        f"**{entry.recipe.name}** on {setup.word}, {came}.",
        "",
        f"Round `{context.asked.operation}` ({context.asked.cause}) after window {context.asked.window}:",
        *(f"- {reason}" for reason in context.asked.reasons),
        "",
        f"Trained on windows {context.prepared.counts['windows']}, data `{context.prepared.data.digest[:12]}`.",
        "",
        "The gate:",
        *(f"- {reason}" for reason in entry.reasons(alias)),
    ]
    return "\n".join(lines)
