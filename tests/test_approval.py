"""Promotion by a person: a proposal waits, is approved, rejected or expires, and meanwhile nothing else starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests import fakes
from trimtab import champion, loop, status
from trimtab.approval import approve, reject
from trimtab.errors import InputError
from trimtab.history import Promotion
from trimtab.journal import Journal
from trimtab.loop import Report
from trimtab.parts import Parts
from trimtab.registry import CHALLENGER, CHAMPION
from trimtab.round import optimize, request_by_hand
from trimtab.trigger import Action

pytestmark = pytest.mark.usefixtures("lock_of_its_own")


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def proposed(home: Path, windows: int = 2, **changes: Any) -> tuple[fakes.World, list[Report]]:
    """A champion, two quiet windows, then some that moved so far that it is wrong about them."""
    rows = [fakes.quiet(400, 0), *(fakes.quiet(200, n) for n in (1, 2)), *moved(windows)]
    there = fakes.World(home, fakes.stream(str(home), *rows), {"promotion": "manual", **changes})
    return there, run(there.process())


def moved(windows: int, seed: int = 10) -> list[pd.DataFrame]:
    return [fakes.moved(200, seed + n) for n in range(windows)]


def run(parts: Parts) -> list[Report]:
    return list(loop.watch(parts, replay=True))


def test_what_is_proven_waits_and_windows_go_on(tmp_path: Path) -> None:
    there, reports = proposed(tmp_path, 3)
    done = [r.round for r in reports if r.round is not None]
    assert [(r.cause, r.outcome, r.window) for r in done] == [("worse", "proposed", 3)]
    assert there.registry.aliases == {CHAMPION: 1, CHALLENGER: 2}
    assert [p.kind for p in there.process().journal.promotions()] == ["first"]
    later = [r.decision for r in reports if r.decision is not None and r.window > 3]
    assert [d.action for d in later] == [Action.ALERT] * 2
    assert later[0].reasons[0] == (
        f"no round: what {done[0].operation} proposed waits for trimtab promote, or trimtab reject"
    )


def test_approved_it_serves_and_is_the_anchor(tmp_path: Path) -> None:
    there, _ = proposed(tmp_path)
    done = approve(there.process(), "ada", "looks right")
    assert (done.outcome, done.detail["approval"]) == ("promoted", {"who": "ada", "reason": "looks right"})
    assert done.detail["targets"][CHAMPION]["promoted"]
    assert done.detail["against_first"]["size_ratio"] > 0
    assert there.registry.alias(CHAMPION) == 2
    journal = there.process().journal
    assert [(p.kind, dict(p.detail)) for p in journal.promotions()][-1] == (
        "approved",
        {"who": "ada", "reason": "looks right"},
    )
    assert champion.anchor(journal.promotions()) == 2
    with pytest.raises(InputError, match=r"nothing waits for approval in .*: the last round .* is promoted"):
        approve(there.process(), "ada", "again")
    fakes.stream(there.stream, fakes.STREAMS[there.stream], *moved(1, 30))
    (after, *_) = run(there.process())
    assert after.decision is not None
    assert after.decision.action is Action.IGNORE


def test_rejected_the_champion_stays_and_rounds_may_start_again(tmp_path: Path) -> None:
    there, _ = proposed(tmp_path)
    done = reject(there.process(), "ada", "not before the audit")
    assert (done.outcome, done.detail["approval"]["reason"]) == ("rejected", "not before the audit")
    assert there.registry.alias(CHAMPION) == 1
    with pytest.raises(InputError, match="nothing waits"):
        reject(there.process(), "ada", "again")
    fakes.stream(there.stream, fakes.STREAMS[there.stream], *moved(2, 40))
    again = [r.round for r in run(there.process()) if r.round is not None]
    assert [(r.cause, r.outcome) for r in again] == [("worse", "proposed")]


def test_a_proposal_that_nobody_answers_expires(tmp_path: Path) -> None:
    manual = {"mode": "manual", "expires": "2 windows"}
    there, _ = proposed(tmp_path, 4, promotion=manual, trigger={"on": ["worse"], "cooldown": 9})
    (done,) = [r for r in there.process().journal.rounds() if r.cause == "worse"]
    assert (done.window, done.outcome) == (3, "rejected")
    assert done.detail["approval"] == {"who": None, "reason": "nobody answered in 2 windows"}
    assert there.registry.alias(CHAMPION) == 1


def test_another_promotion_that_came_first_ends_the_proposal(tmp_path: Path) -> None:
    there, _ = proposed(tmp_path)
    parts = there.process()
    champion.promote(parts, "by-hand", 2, champion.newest_epoch(parts), "promote", {})
    with pytest.raises(InputError, match="another promotion came before"):
        approve(there.process(), "ada", "late")
    assert there.process().journal.waiting() is None


def test_a_proposal_that_nobody_can_approve_any_more_holds_no_round_back(tmp_path: Path) -> None:
    there, _ = proposed(tmp_path)
    parts = there.process()
    champion.promote(parts, "by-hand", 2, champion.newest_epoch(parts), "promote", {})
    fakes.stream(there.stream, fakes.STREAMS[there.stream], *moved(1, 30))
    run(there.process())
    (done,) = [r for r in there.process().journal.rounds() if r.cause == "worse"]
    assert (done.outcome, done.detail["reason"]) == ("lost", "another promotion came first")
    assert there.process().journal.waiting() is None


def test_a_promotion_that_is_remembered_by_the_registry_alone_is_no_rounds_own(tmp_path: Path) -> None:
    there, _ = proposed(tmp_path)
    done = approve(there.process(), "ada", "looks right")
    for file in tmp_path.glob("journal.db*"):
        file.unlink()
    parts = there.process()
    champion.reconcile(parts)
    rebuilt = parts.journal.promotions()
    assert [p.version for p in rebuilt] == [1, 2]
    assert not any(done.made(p) for p in rebuilt)
    assert champion.anchor(rebuilt[1:]) == champion.anchor(rebuilt) == 2
    lost = [dataclasses.replace(p, kind="promote") for p in rebuilt[1:]]  # the registry lost the first and the approval
    assert champion.anchor(lost) == 2


def test_an_approval_that_was_cut_off_after_the_promotion_is_carried_out(tmp_path: Path) -> None:
    there, _ = proposed(tmp_path)
    parts = there.process()
    asked = parts.journal.waiting()
    assert asked is not None
    champion.promote(parts, asked.operation, 2, asked.epoch, "approved", {"who": "ada"})
    done = reject(there.process(), "bob", "too late")
    assert done.outcome == "promoted"
    assert there.registry.alias(CHAMPION) == 2


def test_a_round_by_hand_is_a_proposal_too_and_status_says_that_it_waits(tmp_path: Path) -> None:
    there, _ = proposed(tmp_path, 1, trigger={"on": []})
    done = optimize(there.process(), request_by_hand(there.process(), "curious"))
    assert done.outcome == "proposed"
    told = status.describe(there.process().journal, there.registry)
    assert told["state"] == "waiting"
    assert "trimtab promote" in told["waiting"]
    assert there.registry.alias(CHAMPION) == 1


class LooksTooEarly(Journal):
    """A journal of which another process writes a promotion between the look for it and its own writing."""

    def __init__(self, there: fakes.World) -> None:
        super().__init__(there.process().project.journal_url, "p")
        self.there, self.promotes = there, False

    def promote(self, *given: Any) -> Any:
        self.promotes = True
        return super().promote(*given)

    def promotions(self, alias: str | None = CHAMPION) -> list[Promotion]:
        seen = super().promotions(alias)
        if self.promotes:
            self.promotes = False
            (asked,) = [r for r in self.rounds() if r.outcome == "proposed"]
            champion.promote(self.there.process(), asked.operation, 2, asked.epoch, "approved", {})
        return seen


def test_two_that_approve_at_the_same_moment_promote_once_and_both_know(tmp_path: Path) -> None:
    there, _ = proposed(tmp_path)
    parts = dataclasses.replace(there.process(), journal=LooksTooEarly(there))
    assert approve(parts, "ada", "looks right").outcome == "promoted"
    assert [p.version for p in there.process().journal.promotions()] == [1, 2]
