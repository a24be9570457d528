"""The trigger: which findings over time start a round, and which only alert."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trimtab.monitor import Answer, Finding
from trimtab.trigger import Action, Decision, Trigger


def found(answer: str, window: int, monitor: str = "m") -> Finding:
    return Finding(monitor, window, Answer(answer), (f"{monitor} said {answer}",))


def decide(trigger: Trigger, window: int, *findings: Finding, last: int | None = None) -> Decision:
    return trigger.decide(window, findings, last)


def test_fine_and_unknown_are_ignored() -> None:
    decision = decide(Trigger(), 5, found("fine", 5), found("unknown", 5), found("unknown", 4))
    assert decision == Decision(5, Action.IGNORE, ())


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
