"""The trigger: which findings over time start a round, and which only alert."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trimtab.monitor import Answer, Finding
from trimtab.state import Acknowledged, State
from trimtab.trigger import Action, Decision, Trigger


def found(answer: str, window: int, monitor: str = "m") -> Finding:
    return Finding(monitor, window, Answer(answer), (f"{monitor} said {answer}",))


def decide(trigger: Trigger, window: int, *findings: Finding, last: int | None = None) -> Decision:
    return trigger.decide(window, findings, State(() if last is None else ((last, 0.0),)))


def test_fine_and_unknown_are_ignored() -> None:
    decision = decide(Trigger(), 5, found("fine", 5), found("unknown", 5), found("unknown", 4))
    assert (decision.action, decision.reasons, decision.cause) == (Action.IGNORE, (), None)


def test_worse_starts_a_round_at_once_and_says_why() -> None:
    decision = decide(Trigger(), 6, found("worse", 5, "performance"))
    assert (decision.action, decision.cause) == (Action.OPTIMIZE, "worse")
    assert decision.reasons == ("window 5: performance said worse",)


def test_moved_waits_until_it_is_confirmed_by_windows_and_not_by_monitors() -> None:
    trigger = Trigger.model_validate({"confirm": "2 of 3"})
    once = decide(trigger, 5, found("moved", 5, "a"), found("moved", 5, "b"))
    assert once.action is Action.ALERT
    assert once.reasons[-1].startswith("waiting for labels")
    assert decide(trigger, 6, found("moved", 5), found("moved", 6)).cause == "moved"
    assert decide(trigger, 8, found("moved", 5), found("moved", 8)).action is Action.ALERT


def test_worse_is_the_cause_where_both_speak() -> None:
    decision = decide(Trigger(), 6, found("moved", 5), found("moved", 6), found("worse", 5))
    assert decision.cause == "worse"
    assert decision.reasons[0] == "window 5: m said worse"


def test_broken_quarantines_whatever_else_was_found() -> None:
    decision = decide(Trigger(), 6, found("worse", 5), found("broken", 6, "integrity"))
    assert (decision.action, decision.cause) == (Action.QUARANTINE, None)
    assert decision.reasons == ("window 6: integrity said broken",)


def test_a_window_that_was_broken_before_does_not_quarantine_this_one() -> None:
    assert decide(Trigger(), 6, found("broken", 5), found("fine", 6)).action is Action.IGNORE


@pytest.mark.parametrize(("cooldown", "last", "action"), [(1, 5, "alert"), (1, 4, "optimize"), (3, 3, "alert")])
def test_a_round_waits_for_the_cooldown(cooldown: int, last: int, action: str) -> None:
    decision = decide(Trigger(cooldown=cooldown), 6, found("worse", 6), last=last)
    assert decision.action == action
    assert (action == "alert") == decision.reasons[0].startswith(
        f"cooling down: the last round ran after window {last}"
    )


def test_only_what_is_named_starts_a_round() -> None:
    only_worse = Trigger(on=("worse",))
    assert decide(only_worse, 6, found("moved", 5), found("moved", 6)).action is Action.ALERT
    only_moved = Trigger(on=("moved",))
    assert decide(only_moved, 6, found("worse", 6)).action is Action.ALERT


@pytest.mark.parametrize("value", ["3 of 2", "0 of 2", "two of three", (1,)])
def test_a_confirmation_that_cannot_be_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Trigger.model_validate({"confirm": value})


def test_durations_are_read_in_words() -> None:
    trigger = Trigger.model_validate({"confirm": "2 of 4", "cooldown": "3 windows"})
    assert (trigger.confirm, trigger.cooldown) == ((2, 4), 3)


ANSWERS = st.sampled_from([str(a) for a in Answer])


@given(
    st.lists(st.tuples(ANSWERS, st.integers(1, 10), st.sampled_from("abc")), max_size=20),
    st.one_of(st.none(), st.integers(0, 10)),
    st.permutations(range(20)),
)
def test_a_decision_follows_from_what_was_found_and_not_from_its_order(
    plain: list[tuple[str, int, str]], last: int | None, order: list[int]
) -> None:
    findings = [found(*p) for p in plain]
    shuffled = [findings[i] for i in order if i < len(findings)]
    here, there = decide(Trigger(), 10, *findings, last=last), decide(Trigger(), 10, *shuffled, last=last)
    assert (here.action, here.cause, sorted(here.reasons)) == (there.action, there.cause, sorted(there.reasons))


@given(st.lists(st.tuples(ANSWERS, st.integers(1, 10)), max_size=20), st.integers(0, 10))
def test_a_round_has_a_cause_and_reasons_and_respects_the_cooldown(plain: list[tuple[str, int]], last: int) -> None:
    decision = decide(Trigger(cooldown=2), 10, *(found(*p) for p in plain), last=last)
    assert (decision.action is Action.OPTIMIZE) == (decision.cause is not None)
    if decision.action is Action.OPTIMIZE:
        assert 10 - last > 2
    assert bool(decision.reasons) == (decision.action is not Action.IGNORE)


# what counts beside the findings


def alarm(window: int, *names: str, answer: str = "moved", p: float | None = None, monitor: str = "m") -> Finding:
    return Finding(monitor, window, Answer(answer), tuple(f"{n} moved" for n in names), alarms=names, p=p)


def test_a_round_starts_when_so_many_rows_were_labelled_or_so_long_after_the_last() -> None:
    rows = Trigger.model_validate({"on": ["worse", "rows 500"]})
    assert rows.decide(9, [], State(labelled_rows=499)).action is Action.IGNORE
    assert rows.decide(9, [], State(labelled_rows=500)).cause == "rows"
    monthly = Trigger.model_validate({"on": ["every 30d"]})
    weekly = State(((3, 1.0),), per_year=52.18)
    assert [monthly.decide(n, [], weekly).action for n in (7, 8)] == [Action.IGNORE, Action.OPTIMIZE]
    assert Trigger.model_validate({"on": ["every 2 windows"], "cooldown": 0}).decide(5, [], weekly).cause == "every"


def test_a_round_starts_when_there_are_so_many_times_the_rows_of_the_last() -> None:
    few = State(trainable_rows=3999, trained_rows=1000)
    assert Trigger().decide(9, [], few).action is Action.IGNORE
    enough = Trigger().decide(9, [], dataclasses.replace(few, trainable_rows=4000))
    assert enough.cause == "grown"
    assert enough.reasons == ("there are 4000 labelled rows to train on, 1000 at the last round (grown 4x)",)
    sooner = Trigger.model_validate({"on": ["grown 1.5x"]})
    assert sooner.decide(9, [], dataclasses.replace(few, trainable_rows=1500)).cause == "grown"
    assert Trigger().decide(9, [], State()).action is Action.IGNORE


@pytest.mark.parametrize(
    "words",
    ["often", "rows", "rows 0", "every", "every 3 weeks", "worst", "grown", "grown 1x", "grown 1.0x", "grown 2"],
)
def test_a_cause_that_does_not_exist_is_refused_with_those_that_do(words: str) -> None:
    with pytest.raises(
        ValidationError, match=r"there are worse, moved, slower, grown 4x \(more than 1x\), rows 10000, every 30d"
    ):
        Trigger.model_validate({"on": [words]})


def test_a_budget_that_is_spent_holds_rounds_back_and_says_so() -> None:
    trigger = Trigger.model_validate({"cooldown": 0, "budget": {"rounds": 2, "minutes": 30}})
    worse = found("worse", 9)
    state = State(((6, 10.0), (8, 10.0)), per_year=52)
    held = trigger.decide(9, [worse], state)
    assert (held.action, held.cause) == (Action.ALERT, None)
    assert held.reasons[0] == "no round: spent are 2 of 2 rounds of the month (setting trigger.budget.rounds)"
    assert trigger.decide(9, [worse], State(((4, 99.0), (8, 10.0)), per_year=52)).action is Action.OPTIMIZE
    assert "40 of 30 minutes" in trigger.decide(9, [worse], State(((8, 40.0),), per_year=52)).reasons[0]


def test_what_moved_starts_a_round_only_where_the_champion_hangs_on_it() -> None:
    both = [alarm(n, "a", "b.missing") for n in (8, 9)]
    for importance, action in (({"a": 0.9, "b": 0.1}, "optimize"), ({"a": 0.02, "b": 0.02, "c": 0.96}, "alert")):
        assert Trigger().decide(9, both, State(importance=importance)).action == action
    rows = [alarm(n, "rows") for n in (8, 9)]
    assert Trigger().decide(9, rows, State(importance={"a": 0.01, "c": 0.99})).cause == "moved"
    pair = [alarm(n, "a ~ b") for n in (8, 9)]
    assert Trigger().decide(9, pair, State(importance={"a": 0.03, "b": 0.03, "c": 0.94})).cause == "moved"


@pytest.mark.parametrize(("monitors", "answer"), [(1, "moved"), (3, "moved"), (3, "worse")])
def test_quiet_windows_start_no_more_rounds_than_allowed_however_many_monitors_look(monitors: int, answer: str) -> None:
    rng, years, state = np.random.default_rng(0), 20, State(per_year=8766, monitors=monitors)
    rounds, low = 0, rng.random((years * 8766, monitors)) * 40  # of which the lowest fortieth alarm
    for window in np.flatnonzero((low <= 1).any(axis=1)):
        alarms = [
            dataclasses.replace(alarm(n, "a", p=low[n, m] / 40, answer=answer, monitor=f"m{m}"), estimated=True)
            for n in range(max(0, window - 2), window + 1)
            for m in np.flatnonzero(low[n] <= 1)
        ]
        rounds += Trigger().decide(int(window), alarms, state).action is Action.OPTIMIZE
    assert rounds / years <= 0.8  # half of one a year, and what chance adds to ten


def test_a_column_whose_name_holds_its_unit_is_weighed_as_any_other() -> None:
    light = State(importance={"heat [C]": 0.01, "wind [m/s]": 0.99})
    for statistic in ("heat [C]", "heat [C].missing", "heat [C] [site=north]"):
        assert Trigger().decide(9, [alarm(n, statistic) for n in (8, 9)], light).action is Action.ALERT
    pair = [alarm(n, "heat [C] ~ wind [m/s]") for n in (8, 9)]
    assert Trigger().decide(9, pair, light).cause == "moved"


def test_what_moved_must_be_rarer_by_chance_the_more_windows_a_year_has() -> None:
    twice = [alarm(n, "a", p=0.01) for n in (8, 9)]
    assert Trigger().decide(9, twice, State(per_year=52)).cause == "moved"
    hourly = Trigger().decide(9, twice, State(per_year=8766))
    assert hourly.action is Action.ALERT
    assert hourly.reasons[-1].startswith("no round: p is above 5.3e-03, and trigger.false_rounds allows 1 rounds")


def test_a_round_that_found_nothing_better_is_not_repeated_for_the_same_statistics() -> None:
    twice = [alarm(n, "a", "b") for n in (8, 9)]
    tried = State(tried=frozenset({"a", "b", "c"}))
    assert Trigger().decide(9, twice, tried).reasons[-1].startswith("no round: one was run for it")
    assert Trigger().decide(9, [alarm(n, "a", "d") for n in (8, 9)], tried).cause == "moved"


def test_what_was_tried_or_is_expected_lends_others_neither_weight_nor_rarity() -> None:
    light = {"a": 0.5, "b": 0.001, "c": 0.499}
    twice = [alarm(n, "a", "b") for n in (8, 9)]
    tried = Trigger().decide(9, twice, State(importance=light, tried=frozenset({"a"})))
    assert (tried.action, tried.weighed["importance"]) == (Action.ALERT, 0.001)
    once_each = [alarm(8, "a"), alarm(9, "b")]
    assert Trigger().decide(9, once_each, State(importance=light)).action is Action.ALERT
    said = Acknowledged("m", "a", "new tariff", until=20, who="ann")
    for p, action in ((0.01, Action.ALERT), (0.001, Action.OPTIMIZE)):
        for rarest in (1e-9, 0.0):
            rare = [dataclasses.replace(f, scores={"a.p": rarest, "b.p": p}, p=rarest) for f in twice]
            assert Trigger().decide(9, rare, State(per_year=8766, acknowledged=(said,))).action is action
            assert Trigger().decide(9, rare, State(per_year=8766, tried=frozenset({"a"}))).action is action


def test_an_acknowledged_alarm_starts_no_round_and_others_of_the_same_monitor_do() -> None:
    said = Acknowledged("m", "a", "new tariff", until=20, who="ann")
    state = State(acknowledged=(said,))
    quiet = Trigger().decide(9, [alarm(n, "a") for n in (8, 9)], state)
    assert (quiet.action, quiet.reasons) == (
        Action.IGNORE,
        ("m: acknowledged by ann as expected (new tariff)",),
    )
    assert Trigger().decide(9, [alarm(n, "a", "b") for n in (8, 9)], state).cause == "moved"
    assert Trigger().decide(22, [alarm(n, "a") for n in (21, 22)], state).cause == "moved"
    over = Trigger().decide(21, [alarm(n, "a") for n in (19, 20)], state)
    assert (over.action, over.reasons) == (Action.IGNORE, ())  # what was expected stays so when its time is over
    whole = State(acknowledged=(Acknowledged("m", None, "strike", 20, "bob"),))
    assert Trigger().decide(9, [alarm(9, "a", answer="worse")], whole).action is Action.IGNORE
    assert Trigger().decide(9, [alarm(9, "a", answer="worse", monitor="n")], whole).cause == "worse"
    assert Trigger().decide(9, [found("broken", 9)], whole).action is Action.QUARANTINE


def test_an_estimate_is_confirmed_like_drift_and_gives_way_to_labels() -> None:
    guessed = [Finding("estimate", n, Answer.WORSE, ("guessed",), estimated=True) for n in (8, 9)]
    assert Trigger().decide(8, guessed[:1]).action is Action.ALERT
    assert Trigger().decide(9, guessed).cause == "estimated"
    fine = Finding("performance", 9, Answer.FINE, labelled=True)
    assert Trigger().decide(9, [*guessed, fine]).cause is None


def test_what_moved_and_is_well_by_its_labels_starts_no_round() -> None:
    moved = [alarm(n, "a") for n in (7, 8, 9)]
    fine = [Finding("performance", n, Answer.FINE, labelled=True) for n in (7, 8)]
    assert Trigger().decide(9, [*moved, *fine]).action is Action.ALERT
    assert Trigger().decide(9, [*moved, fine[0]]).cause == "moved"
    assert Trigger(on=("moved",)).decide(9, [*moved, *fine]).cause == "moved"
    settled = Trigger().decide(9, [*moved, *fine, Finding("performance", 9, Answer.FINE, labelled=True)])
    assert settled.reasons[-1] == "no round: its labels say that all is well"


def test_a_slower_champion_starts_a_round_where_that_is_asked_for() -> None:
    slower = found("slower", 9)
    assert Trigger().decide(9, [slower]).action is Action.ALERT
    assert Trigger(on=("slower",)).decide(9, [slower]).cause == "slower"


def broken(window: int, *about: str, monitor: str = "integrity") -> Finding:
    return Finding(monitor, window, Answer.BROKEN, (f"{monitor} said broken",), about=about)


def test_the_same_column_broken_in_every_one_of_the_last_windows_asks_for_a_person() -> None:
    trigger = Trigger.model_validate({"ask_after": "3 windows"})
    asked = decide(trigger, 7, broken(5, "a", "b"), broken(6, "b", "c"), broken(7, "c"), broken(7, "b", monitor="m"))
    assert (asked.action, asked.asks, asked.cause) == (Action.QUARANTINE, True, None)
    assert asked.reasons[0].startswith("a person is needed: 'b' broken in 3 windows in a row, up to 7; mend the source")
    assert asked.reasons[1:] == (
        "window 7: integrity said broken",
        "window 7: m said broken",
    )
    assert not decide(trigger, 7, broken(5, "a"), broken(6, "b"), broken(7, "b")).asks
    assert not decide(trigger, 7, broken(4, "b"), broken(5, "b"), broken(7, "b")).asks
    assert not decide(trigger, 2, broken(1, "b"), broken(2, "b")).asks
    assert decide(Trigger(ask_after=1), 1, broken(1, "b")).asks


def test_a_guard_that_names_no_column_is_named_itself() -> None:
    asked = decide(Trigger(ask_after=2), 6, found("broken", 5, "guard"), found("broken", 6, "guard"))
    assert asked.reasons[0].startswith("a person is needed: 'guard' broken in 2 windows in a row")


def test_nobody_can_be_asked_after_no_window() -> None:
    with pytest.raises(ValidationError, match="ask_after"):
        Trigger(ask_after=0)
