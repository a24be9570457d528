"""What the benchmarks of the trigger stand on: streams that turn as they say, policies, and quiet years."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import courses
import policies
import preset
import quiet_years
import watching

from tests import fakes
from trimtab import loop
from trimtab.monitor import Answer, Finding
from trimtab.trigger import Action, Trigger

STARTS = {"window": {"every": 200, "start": 400}, "monitors": {"use": ["evidently.drift", "performance"]}}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


@pytest.mark.usefixtures("lock_of_its_own")
@pytest.mark.parametrize("per_year", [13, 52, 8766])
def test_monitors_are_asked_at_the_rates_that_the_product_gives_them(tmp_path: Path, per_year: int) -> None:
    stream = fakes.stream(f"rates-{per_year}", fakes.quiet(400, 1), fakes.quiet(200, 2))
    there = fakes.World(tmp_path, stream, {**STARTS, "window": {**STARTS["window"], "per_year": per_year}})
    list(loop.watch(there.process(), replay=True))
    asked = {f.monitor: f.alpha for _, f in there.process().journal.findings()}
    rates = watching.Rates.of(Trigger(), per_year)
    assert asked == {"evidently.drift": pytest.approx(rates.others), "performance": pytest.approx(rates.labelled)}


def angle(course: courses.Course, number: int) -> float:
    """Return by which angle of two columns a window's labels hang on them."""
    rows = course.places(number, number)
    first, second = LogisticRegression().fit(course.features.iloc[rows], course.labels[rows]).coef_[0, :2]
    return float(np.arctan2(second, first))


@pytest.mark.parametrize("season", [13, 26])
def test_a_season_swings_there_and_back(season: int) -> None:
    made = [courses.seasonal(season, swing=0.7)(seed) for seed in range(4)]
    angles = {n: np.mean([angle(c, n) for c in made]) for n in (0, season // 2, season)}
    assert angles[0] == pytest.approx(-0.7, abs=0.15)
    assert angles[season // 2] == pytest.approx(0.7, abs=0.15)
    assert angles[season] == pytest.approx(angles[0], abs=0.2)
    means = made[0].features["x0"].to_numpy().reshape(-1, courses.ROWS).mean(axis=1)
    assert np.ptp(means) == pytest.approx(1.0, abs=0.2)


def test_one_stream_turns_evenly_and_one_at_once_and_both_are_the_same_twice() -> None:
    slow, abrupt = courses.slow(0), courses.abrupt(0)
    assert angle(slow, 52) - angle(slow, 0) == pytest.approx(1.6, abs=0.4)
    turns = np.abs(np.diff([angle(abrupt, n) for n in range(courses.WINDOWS)]))
    assert 3 <= (turns > 0.45).sum() <= 6
    assert np.median(turns) < 0.2
    assert courses.abrupt(0).features.equals(abrupt.features)
    assert not courses.abrupt(1).features.equals(abrupt.features)
    assert (slow.last, abrupt.last) == (52, 52)


@pytest.fixture(scope="module")
def flipped() -> policies.Models:
    """Twelve windows; from the sixth on the labels say the opposite of what they said, in rows that look alike."""
    calm = courses.turned(np.zeros(12), np.zeros((12, courses.COLUMNS)), 26, seed=0)
    rows = np.arange(len(calm.labels))
    return policies.Models(replace(calm, labels=np.where(rows < 6 * calm.rows, calm.labels, 1 - calm.labels)), 0)


def test_a_model_knows_the_last_four_windows_whose_labels_came(flipped: policies.Models) -> None:
    windows = {n: flipped.serving(n).held_back // courses.ROWS for n in (1, 2, 4, 9)}
    assert {n: (w.min(), w.max()) for n, w in windows.items()} == {1: (0, 0), 2: (0, 0), 4: (0, 2), 9: (4, 7)}
    share = len(flipped.serving(9).held_back) / (4 * courses.ROWS)
    assert share == pytest.approx(policies.HELD_BACK, abs=0.05)


def test_the_trigger_answers_when_the_labels_of_what_changed_have_come(flipped: policies.Models) -> None:
    calm = ("worse", "moved")
    followed = policies.follow(flipped, policies.Triggered(Trigger(on=calm), 26))
    assert followed.rounds[:2] == (7, 9)
    assert policies.follow(flipped, policies.Triggered(Trigger(on=calm, cooldown=2), 26)).rounds[:2] == (7, 10)
    assert policies.follow(flipped, policies.Triggered(Trigger(on=calm, cooldown=0), 26)).rounds[:2] == (7, 8)
    assert followed.accuracy > policies.follow(flipped, policies.never).accuracy + 0.05


@pytest.mark.parametrize(("cause", "rounds"), [("grown 4x", (4, 7)), ("grown 3x", (3, 7)), ("grown 2x", (2, 4, 7))])
def test_the_trigger_answers_when_there_are_many_more_rows_to_train_on(
    flipped: policies.Models, cause: str, rounds: tuple[int, ...]
) -> None:
    asks = policies.Triggered(Trigger(on=("worse", "moved", cause)), 26)
    assert policies.follow(flipped, asks).rounds[: len(rounds)] == rounds


def test_policies_run_when_they_say(flipped: policies.Models) -> None:
    assert policies.follow(flipped, policies.every(3)).rounds == (3, 6, 9)
    assert policies.follow(flipped, policies.never).rounds == ()
    assert flipped.serving(1).drifted(11) == 0
    assert policies.follow(flipped, policies.Evidently(preset.HALF, 2)).rounds == ()


@pytest.mark.parametrize(("share", "rounds"), [(0.0, (2, 5, 8, 11)), (0.5, (5, 8, 11))])
def test_evidently_asks_by_its_share_of_columns_and_as_seldom_as_the_trigger(
    share: float, rounds: tuple[int, ...]
) -> None:
    places = np.arange(12)[:, None]
    means = np.where(places < 2, 0.0, np.where(places < 5, [2, 0, 0, 0, 0, 0], 2.0)) * (1 + places)
    course = courses.turned(np.zeros(12), means, 26, seed=0)
    assert policies.follow(policies.Models(course, 0), policies.Evidently(share, 2)).rounds == rounds


def test_the_bars_are_three_of_accuracy_and_one_of_optimizations() -> None:
    measured = {"never": (0.68, 0.0), "every window": (0.76, 32.0), "every third window": (0.74, 10.0)}

    def judged(right: float, rounds: float, most: int | None = 11) -> bool:
        return bool(policies.bars({**measured, "trimtab": (right, rounds)}, most)["ok"])

    assert judged(0.746, 11)
    assert not judged(0.746, 12)
    assert judged(0.746, 12, most=None)
    assert not judged(0.7449, 8)
    measured["every window"] = (0.75, 32.0)
    assert not judged(0.739, 8)
    measured["never"] = (0.70, 0.0)
    measured["every third window"] = (0.73, 10.0)
    assert not judged(0.7374, 8)
    assert judged(0.7376, 8)


def test_other_triggers_are_told_beside_the_defaults_seed_by_seed() -> None:
    by_seed = {k: {name: policies.Followed(0.7 + 0.1 * k, (1, 2)) for name in policies.OTHERS} for k in range(3)}
    for k, run in by_seed.items():
        run[policies.OURS] = policies.Followed(0.69 + 0.1 * k, (1,))
    told = policies.others({"slow": by_seed})["slow"]
    assert [*told] == [policies.OURS, *policies.OTHERS]
    assert (told["grown 2x"]["optimizations"], told["grown 2x"]["accuracy"]) == (2.0, pytest.approx(0.8))
    assert told["cooldown 0"]["above_defaults"]["value"] == pytest.approx(0.01)
    assert told[policies.OURS]["above_defaults"]["value"] == 0


def test_in_quiet_years_windows_stay_the_same_and_a_new_champion_has_a_new_reference() -> None:
    still = quiet_years.Still(quiet_years.generated(5), 0.1, (0, 0))
    first, second = still.champion(0), still.champion(1)
    assert not first.reference.frame.equals(second.reference.frame)
    assert first.seen(3).frame.equals(second.seen(3).frame)
    assert (len(first.reference), len(first.seen(3))) == (quiet_years.REFERENCE, quiet_years.ROWS)
    right = [(s.probabilities.argmax(axis=1) == s.labels).mean() for s in (first.reference, second.reference)]
    assert right == [pytest.approx(0.88, abs=0.03)] * 2
    counts = quiet_years.watched(quiet_years.Project(0.1, 5, (0, 0)))
    assert (counts["windows"], counts["looked evidently.drift"], counts["looked performance"]) == (5, 5, 2)
    assert counts["rounds"] == 0


def test_what_moves_and_what_gets_worse_is_counted_by_monitor_and_part() -> None:
    moved = Finding("evidently.drift", 1, Answer.MOVED, alarms=("rows", "a ~ b", "a"))
    worse = Finding("performance", 1, Answer.WORSE, ("accuracy fell", "wrong answers since window 1 are above"))
    quiet = Finding("performance", 2, Answer.FINE)
    counts = Counter(key for finding in (moved, worse, quiet) for key in quiet_years.alarmed(finding))
    assert counts["looked performance"] == 2
    assert all(counts[f"alarm {name}"] == 1 for name in ("performance", "evidently.drift"))
    assert {key for key in counts if key.startswith(("moved", "worse"))} == {
        "moved rows",
        "moved pair",
        "moved column",
        "worse at once",
        "worse over time",
    }


@pytest.mark.parametrize(("rounds", "ok"), [(0, True), (200, True), (300, False)])
def test_too_many_rounds_without_a_cause_are_seen(rounds: int, ok: bool) -> None:
    windows = quiet_years.YEARS * quiet_years.WEEKS
    looked = Counter({"looked evidently.drift": windows, "looked performance": windows})
    told = quiet_years.figures_of(looked + Counter({"windows": windows, "rounds": rounds, "round worse": rounds}))
    assert told["false_rounds_per_year"] == pytest.approx(rounds / quiet_years.YEARS)
    bound = 52 * beta.ppf(0.001, rounds, windows - rounds + 1) if rounds else 0.0
    assert told["quiet_years"]["low"] == pytest.approx(bound)
    assert told["quiet_years"]["ok"] is ok


def test_evidence_begins_anew_with_a_new_champion() -> None:
    still = quiet_years.Still(quiet_years.generated(5), 0.1, (0, 1))
    calm = still.champion(0)

    def seen(number: int) -> watching.Sample:
        sample = still.window(number)
        labels = sample.labels if number < 3 else 1 - np.asarray(sample.labels)
        return replace(sample, labels=labels)

    watch = watching.Watch(Trigger(), 52, 1)
    changed = watching.Champion(calm.reference, seen)
    decisions = [watch.close(number, changed)[1] for number in range(1, 5)]
    assert [d.action for d in decisions] == [Action.IGNORE] * 3 + [Action.OPTIMIZE]
    found, decision = watch.close(5, calm)
    assert [(f.window, f.answer, f.labelled) for f in found] == [(5, Answer.FINE, False), (4, Answer.FINE, True)]
    assert decision.action is Action.IGNORE


def test_the_stream_of_electricity_is_cut_into_windows_of_four_weeks() -> None:
    if not courses.ELECTRICITY.is_file():
        pytest.skip("set TRIMTAB_SHARED to a folder with data/electricity.csv.gz")
    course = courses.electricity(0)
    assert (course.last, course.rows) == (32, 1344)
    assert isinstance(course.features, pd.DataFrame)
    assert list(course.features) == ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
    assert set(course.labels) == {0, 1}
