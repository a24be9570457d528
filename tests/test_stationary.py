"""Ten rounds on a stream that does not move, as the benchmark of the rounds runs them; and a round that nobody wins."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client.core import Metric

from trimtab.journal import Journal
from trimtab.settings import Project
from trimtab_prometheus.metrics import families
from trimtab_prometheus.reading import Reading, read

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def rounds() -> Iterator[ModuleType]:
    """The benchmark as a module; scripts of one folder import each other."""
    sys.path.insert(0, str(BENCHMARKS))
    import rounds

    yield rounds
    sys.path.remove(str(BENCHMARKS))


# ten rounds


@pytest.fixture(scope="module")
def quiet(rounds: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of ten rounds left; one candidate is retrained, pruned and distilled anew in every round."""
    folder = tmp_path_factory.mktemp("quiet")
    left: list[dict[str, Any]] = rounds.follow(folder, window=1000, epochs=3, candidates=2, seed=0)
    return left


def test_ten_rounds_ran(quiet: list[dict[str, Any]]) -> None:
    assert [(r["cause"], r["reasons"]) for r in quiet] == [("manual", ["asked for: test"])] * 10
    assert {r["outcome"] for r in quiet} == {"promoted", "kept"}


def test_the_parent_keeps_its_size(quiet: list[dict[str, Any]]) -> None:
    assert quiet[-1]["champion"] > 1
    assert len({r["parent_bytes"] for r in quiet}) == 1
    assert {r["parent_parameters"] for r in quiet} == {2882}


def test_nothing_is_promoted_without_a_proven_gain(quiet: list[dict[str, Any]]) -> None:
    for r in quiet:
        assert (r["outcome"] == "promoted") == bool(r["gains"])
        for low, high in r["gains"].values():
            assert 0 < low <= high


def test_the_champion_never_falls_below_the_anchor_by_more_than_is_allowed(
    rounds: ModuleType, quiet: list[dict[str, Any]]
) -> None:
    assert len({r["anchor_accuracy"] for r in quiet}) == 1
    assert 0.8 < quiet[0]["anchor_accuracy"] < 1 - rounds.NOISE + 0.01
    assert max(r["anchor_accuracy"] - r["champion_accuracy"] for r in quiet) <= rounds.MAX_TOTAL_DROP


# a round that nobody wins


@pytest.fixture(scope="module")
def hopeless(rounds: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose labels are drawn by lot from window 1 on: the champion is worse, and nothing can be better."""
    folder = tmp_path_factory.mktemp("hopeless")
    config: Path = rounds.set_up(folder, window=500, epochs=2, candidates=2, seed=1)
    settings = yaml.safe_load(config.read_text())
    settings["trigger"] = {"on": ["worse"]}
    settings["data"]["train"] = 1
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    lots = np.random.default_rng(3).integers(0, 2, 500)
    rounds.rows(500, 7).assign(good=lots).to_csv(folder / "rows-01.csv", index=False)
    rounds.command("run", str(config), "--direct", "--json")
    return config


def test_a_round_without_a_winner_leaves_the_project_degraded(
    hopeless: Path, rounds: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    rounds.command("status", str(hopeless), "--json")
    status = json.loads(capsys.readouterr().out)
    assert status["state"] == "degraded"
    assert [(r["cause"], r["outcome"]) for r in status["rounds"]] == [("worse", "degraded")]
    assert status["champion"] == 1
    assert status["aliases"]["champion"] == 1
    assert status["aliases"]["challenger"] == status["rounds"][0]["version"] == 2
    assert all(c["reasons"] for c in status["rounds"][0]["candidates"])


def test_the_exporter_says_that_the_project_is_degraded(hopeless: Path) -> None:
    journal = Journal(f"sqlite:///{hopeless.parent / 'home' / 'journal.db'}", "quiet")
    told: dict[str, Metric] = {
        family.name: family for family in families([Reading(Project.load(hopeless), read(journal))])
    }
    assert [(s.labels, s.value) for s in told["trimtab_project_degraded"].samples] == [({"project": "quiet"}, 1.0)]
    closed = {(s.labels["cause"], s.labels["outcome"]): s.value for s in told["trimtab_rounds"].samples}
    assert {pair for pair, count in closed.items() if count} == {("worse", "degraded")}
