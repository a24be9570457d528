"""How a round is told to the registry and the journal: runs, datasets, tags, packages, descriptions."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import rows
from trimtab.artifact import fill_folder, write_json
from trimtab.benchmark import Scores
from trimtab.candidate import Candidate
from trimtab.data import Role
from trimtab.entry import Entry
from trimtab.journal import Round
from trimtab.parts import Parts
from trimtab.registry import CandidateLog, DatasetLog, RoundLog, Version
from trimtab.serving import Serving
from trimtab.window import Schema

__all__ = ["Context", "describe", "package"]

CONFIDENCE = 0.95
"""Of the intervals that are shown and logged; the gate uses its own."""


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
        )

    def candidate_log(self, parts: Parts, entry: Entry) -> CandidateLog:
        """Describe one candidate, also a failed one."""
        candidate, scores = entry.candidate, entry.scores
        tags = self.ancestry | {"trimtab.verdict": entry.outcome, "trimtab.recipe": entry.recipe.name}
        if entry.verdict is not None:
            tags["trimtab.verdict_reasons"] = "; ".join(entry.verdict.reasons)[:5000]
        if entry.error is not None:
            tags["trimtab.error"] = entry.error[:5000]
        if candidate is not None:
            tags["trimtab.fingerprint"] = candidate.fingerprint
        example, outputs = self._example(parts, candidate)
        return CandidateLog(
            operation=f"{self.asked.operation}:candidate:{entry.recipe.name}:{_print(candidate)}",
            name=entry.recipe.name,
            tags=tags,
            params=_params(entry),
            metrics=metrics(scores) | ({"build_seconds": candidate.seconds} if candidate is not None else {}),
            model=candidate.model if candidate is not None else None,
            example=example,
            outputs=outputs,
            failed=entry.error is not None,
        )

    def _example(self, parts: Parts, candidate: Candidate | None) -> tuple[dict[str, Any], dict[str, Any]]:
        if candidate is None:
            return {}, {}
        inputs = dict(self.prepared.data.rows(Role.TRAIN).take(np.arange(2)).inputs)
        return inputs, parts.runtime.load(candidate.model).run(inputs)

    def detail(self, entries: Sequence[Entry], winner: Entry | None, version: Version | None) -> dict[str, Any]:
        """Return the round's candidates and rows as JSON, for the journal."""
        return {
            "rows": self.prepared.counts,
            "candidates": [describe(e, e is winner) for e in entries],
            "version": None if version is None else version.number,
            "champion": None if self.champion is None else self.champion.version,
        }

    def outcome_tags(self, outcome: str, version: Version | None) -> dict[str, str]:
        """Return the tags that a closed round's run gets."""
        return {"trimtab.outcome": outcome, "trimtab.version": "" if version is None else str(version.number)}

    def register(self, parts: Parts, entry: Entry, candidate: Candidate, candidate_run: str) -> Version:
        """Put the candidate's package together and register it as a version."""
        folder = parts.folder / "rounds" / rows.slug(self.asked.operation) / f"package-{candidate.fingerprint}"
        package(folder, candidate, self.schema, self.prepared, self.champion, entry)
        tags = self.ancestry | {
            "trimtab.recipe": entry.recipe.name,
            "trimtab.fingerprint": candidate.fingerprint,
            "trimtab.verdict": entry.outcome,
        }
        return parts.registry.create_version(
            candidate_run,
            f"{self.asked.operation}:version:{candidate.fingerprint}",
            folder,
            tags,
            _description(self, entry),
        )


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
) -> None:
    """Put together everything that a version consists of: what serves, its parent, its schema, its reference."""
    if folder.is_dir():
        return
    fitted = [prepared.fitted, *([champion.fitted] if champion is not None else [])]
    with fill_folder(folder) as draft:
        shutil.copytree(candidate.model.folder, draft / "model")
        shutil.copytree(candidate.parent.folder, draft / "parent")
        write_json(draft / "schema.json", schema.model_dump(mode="json"))
        write_json(draft / "recipe.json", entry.recipe.model_dump(mode="json") | {"steps_built": candidate.steps})
        shutil.copyfile(prepared.folder / "reference.parquet", draft / "reference.parquet")
        np.savez(draft / "fitted.npz", groups=np.unique(np.concatenate(fitted)))


def metrics(scores: Scores | None) -> dict[str, float]:
    """Return scores as metrics with their units in the names."""
    if scores is None:
        return {}
    quality, speedup = scores.quality(CONFIDENCE), scores.latency.speedup
    named = {
        "quality": quality.value,
        "quality_low": quality.low,
        "quality_high": quality.high,
        "quality_search": scores.searched,
        "p50_ms": scores.latency.p50_ms,
        "p95_ms": scores.latency.p95_ms,
        "speedup": speedup.value,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "size_bytes": float(scores.size_bytes),
    }
    if len(scores.golden):
        named["quality_golden"] = float(scores.golden.mean())
    if scores.parameters is not None:
        named["parameters"] = float(scores.parameters)
    return {k: v for k, v in named.items() if np.isfinite(v)}


def describe(entry: Entry, won: bool) -> dict[str, Any]:
    """Return one candidate as JSON, for tables."""
    verdict = entry.verdict
    reasons = [entry.error] if entry.error is not None else list(verdict.reasons if verdict is not None else ())
    facts = entry.candidate.model.facts if entry.candidate is not None else {}
    return {
        "recipe": entry.recipe.name,
        "outcome": entry.outcome,
        "won": won,
        "reasons": reasons,
        "metrics": metrics(entry.scores),
        "contended": entry.scores.latency.contended if entry.scores is not None else None,
        "judge_rows": len(entry.scores.judged) if entry.scores is not None else 0,
        "fingerprint": entry.candidate.fingerprint if entry.candidate is not None else None,
        "seconds": entry.candidate.seconds if entry.candidate is not None else None,
        "facts": facts,
    }


def _params(entry: Entry) -> dict[str, str]:
    flat = {
        f"{i}.{step.technique}.{key}": str(value)
        for i, step in enumerate(entry.recipe.steps)
        for key, value in dataclasses.asdict(step.load()).items()  # type: ignore[call-overload]
    }
    return {"recipe": entry.recipe.name} | flat


def _description(context: Context, entry: Entry) -> str:
    champion = context.champion
    came = "the first champion" if champion is None else f"cut from the parent of version {champion.version}"
    reasons = entry.verdict.reasons if entry.verdict is not None else ()
    lines = [
        f"**{entry.recipe.name}**, {came}.",
        "",
        f"Round `{context.asked.operation}` ({context.asked.cause}) after window {context.asked.window}:",
        *(f"- {reason}" for reason in context.asked.reasons),
        "",
        f"Trained on windows {context.prepared.counts['windows']}, data `{context.prepared.data.digest[:12]}`.",
        "",
        "The gate:",
        *(f"- {reason}" for reason in reasons),
    ]
    return "\n".join(lines)
