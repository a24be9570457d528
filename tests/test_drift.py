"""Which window fires: every seeded shift, and no more quiet windows than promised."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest

from tests.judged import judged
from trimtab.errors import SettingsError
from trimtab.monitor import Answer, Finding, Sample, case_of
from trimtab.window import Feature, Schema
from trimtab_evidently import columns
from trimtab_evidently.columns import tensor_statistics
from trimtab_evidently.drift import Drift, adjust
from trimtab_evidently.joint import tail
from trimtab_evidently.scores import Score

NUMBERS = {"normal": Feature(), "cauchy": Feature(), "counts": Feature(), "zeros": Feature(), "gaps": Feature()}
LEVELS = {"letter": Feature(kind="categorical"), "code": Feature(kind="categorical")}
TOGETHER = ("rows", "embedding", "embedding.kernel", "entropy")
Change = Callable[[pd.DataFrame], pd.DataFrame]


def table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=n)
    return pd.DataFrame(
        {
            "normal": normal,
            "cauchy": rng.standard_cauchy(n),
            "counts": rng.poisson(2, n),
            "zeros": np.where(rng.random(n) < 0.9, 0, rng.normal(size=n)),
            "gaps": np.where(rng.random(n) < 0.05, np.nan, rng.normal(size=n)),
            "letter": rng.choice(list("abcde"), n, p=[0.5, 0.3, 0.15, 0.04, 0.01]),
            "code": rng.integers(0, 3, n),
        }
    )


FRAME = table(1344, 0)
SCHEMA = Schema.freeze(NUMBERS | LEVELS, FRAME)
REFERENCE = Sample(SCHEMA, FRAME)


def check(frame: pd.DataFrame, monitor: Drift | None = None, alpha: float = 0.05) -> Finding:
    return judged(monitor or Drift(), REFERENCE, Sample(SCHEMA, frame, number=1), alpha)


def moved(finding: Finding) -> list[str]:
    """Columns that moved by themselves."""
    names = [r.split(" moved: ")[0] for r in finding.reasons if " moved: " in r]
    return [n for n in names if n not in TOGETHER and " ~ " not in n]


def with_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(normal=frame["normal"].where(np.arange(len(frame)) % 5 > 0))


SHIFTS: dict[str, tuple[Change, list[str]]] = {
    "mean": (lambda f: f.assign(normal=f["normal"] + 0.5), ["normal"]),
    "scale": (lambda f: f.assign(normal=f["normal"] * 2), ["normal"]),
    "counts": (lambda f: f.assign(counts=f["counts"] + 1), ["counts"]),
    "zeros": (lambda f: f.assign(zeros=f["zeros"] + (np.arange(len(f)) % 2)), ["zeros"]),
    "categories": (lambda f: f.assign(letter=np.roll(list("aabbcc") * len(f), 1)[: len(f)]), ["letter"]),
    "new level": (lambda f: f.assign(letter=f["letter"].replace("c", "new")), ["letter"]),
    "integer levels": (lambda f: f.assign(code=f["code"].clip(upper=1)), ["code"]),
    "missing": (with_gaps, ["normal.missing"]),
    "two": (lambda f: f.assign(normal=f["normal"] + 0.5, counts=f["counts"] + 3), ["counts", "normal"]),
}


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_fires_in_its_columns_alone(shift: str) -> None:
    change, columns = SHIFTS[shift]
    finding = check(change(table(800, 5)))
    assert finding.answer == Answer.MOVED
    assert moved(finding) == columns


def test_which_window_of_a_stream_fires() -> None:
    stream = [table(400, 100 + w).assign(normal=lambda f, w=w: f["normal"] + 0.2 * max(0, w - 5)) for w in range(12)]
    fired = [w for w, frame in enumerate(stream) if check(frame).answer == Answer.MOVED]
    assert fired == [6, 7, 8, 9, 10, 11]


def test_quiet_windows_alarm_at_most_at_alpha_even_without_limits_on_the_effect() -> None:
    any_size = Drift(effect=0, category_effect=0, correlation_effect=0, separation=0)
    alarms = [check(table(300, seed), any_size).answer == Answer.MOVED for seed in range(1000, 1060)]
    assert sum(alarms) <= 3  # of 60, the promised rate


def test_quiet_windows_are_fine_where_few_alarms_are_promised() -> None:
    assert {check(table(800, seed), alpha=0.001).answer for seed in range(20)} == {Answer.FINE}


def test_a_certain_but_small_change_is_fine() -> None:
    frame = table(20_000, 3).assign(normal=lambda f: f["normal"] + 0.15)
    finding = check(frame, Drift(effect=0.3, joint=False))
    assert finding.answer == Answer.FINE
    assert finding.scores["normal.p"] < 1e-4
    assert moved(check(frame)) == ["normal"]


def test_without_calibration_the_limit_alone_decides_as_in_evidently() -> None:
    loud = [check(table(150, seed), Drift(calibrate=False, joint=False)).answer for seed in range(5)]
    assert loud == [Answer.MOVED] * 5
    assert (
        check(table(150, 0), Drift(calibrate=False, joint=False, effect=0.5, category_effect=0.5)).answer == Answer.FINE
    )


def test_a_correlation_that_breaks_is_found_where_no_column_moves() -> None:
    def pair(rows: int, seed: int, rho: float) -> pd.DataFrame:
        return pd.DataFrame(
            np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], rows), columns=["a", "b"]
        )

    before = pair(2000, 0, 0.45)
    schema = Schema.freeze({"a": Feature(), "b": Feature()}, before)
    broken = judged(Drift(), Sample(schema, before), Sample(schema, pair(1000, 1, 0.0), 1), 0.05)
    assert broken.answer == Answer.MOVED
    assert any(r.startswith("a ~ b moved: rank correlation 0.4") for r in broken.reasons)
    assert moved(broken) == []
    assert judged(Drift(), Sample(schema, before), Sample(schema, pair(1000, 2, 0.45), 1), 0.05).answer == Answer.FINE


def test_reasons_give_both_sides_the_effect_the_limit_and_p() -> None:
    reference = pd.DataFrame({"x": [0.0, 2.0] * 100, "k": ["a", "b"] * 100})
    schema = Schema.freeze({"x": Feature(), "k": Feature(kind="categorical")}, reference)
    window = pd.DataFrame({"x": [2.0, 4.0] * 100, "k": ["c", "b"] * 100})
    finding = judged(Drift(joint=False), Sample(schema, reference), Sample(schema, window, number=1), 0.05)
    assert set(finding.reasons) == {
        "k moved: share of 'c' 0 to 0.5, never seen in the reference; effect 0.59, limit 0.107; adjusted p 7e-44",
        "x moved: mean 1 to 3, sd 1 to 1; effect 2.00, limit 0.258; adjusted p 1e-43",
    }
    assert finding.scores["x"] == pytest.approx(2.0)


def test_a_column_that_cannot_be_judged_hides_no_other() -> None:
    frame = table(800, 5).assign(cauchy=np.nan, zeros="text", counts=1, gaps=np.inf, normal=lambda f: f["normal"] + 1)
    finding = check(frame.drop(columns="code"))
    assert {"normal", "counts"} <= set(moved(finding))
    skipped = [r for r in finding.reasons if "was not judged" in r]
    assert [r.split(" ")[0] for r in skipped] == ["code", "cauchy", "zeros", "gaps"]
    assert skipped[1] == "cauchy was not judged: 1344 values in the reference and 0 in the window, 100 needed in each"


def test_a_constant_column_is_fine_until_it_changes() -> None:
    frame = pd.DataFrame({"x": np.full(200, 7.0)})
    schema = Schema.freeze({"x": Feature()}, frame)
    same = judged(Drift(), Sample(schema, frame), Sample(schema, frame, 1), 0.05)
    assert (same.answer, same.scores["x"]) == (Answer.FINE, 0.0)
    other = judged(Drift(), Sample(schema, frame), Sample(schema, frame + 1, 1), 0.05)
    assert other.answer == Answer.MOVED
    assert np.isfinite(other.scores["x"])


def test_integer_levels_are_the_same_beside_a_missing_value() -> None:
    frame = table(800, 5)
    frame.loc[0, "code"] = np.nan
    assert check(frame).answer == Answer.FINE


def test_many_rare_levels_are_no_alarm() -> None:
    rng = np.random.default_rng(0)
    frames = [pd.DataFrame({"k": [f"u{v}" for v in rng.integers(0, 5000, 800)]}) for _ in range(5)]
    schema = Schema.freeze({"k": Feature(kind="categorical")}, frames[0])
    for frame in frames[1:]:
        assert judged(Drift(), Sample(schema, frames[0]), Sample(schema, frame, 1), 0.05).answer == Answer.FINE


def test_too_few_rows_are_unknown_and_the_number_needed_is_named() -> None:
    finding = check(table(99, 1))
    assert finding.answer == Answer.UNKNOWN
    assert finding.reasons == ("needs 100 rows (setting min_rows) in window 1, which has 99",)
    assert check(table(99, 1), Drift(min_rows=50)).answer == Answer.FINE


def test_nothing_to_compare_is_unknown() -> None:
    finding = check(pd.DataFrame(index=range(200)))
    assert finding.answer == Answer.UNKNOWN
    assert finding.reasons[-1] == "no column of the statistics can be compared"


def test_ignored_columns_neither_alarm_nor_count() -> None:
    frame = table(800, 5).assign(normal=lambda f: f["normal"] + 5)
    finding = check(frame, Drift(ignore=("normal",)))
    assert finding.answer == Answer.FINE
    assert "normal" not in finding.scores
    with pytest.raises(SettingsError, match=r"no statistic 'nromal'; there are normal, .* Did you mean 'normal'"):
        check(frame, Drift(ignore=("nromal",)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"effect": -1},
        {"category_effect": 0.9},
        {"correlation_effect": 2},
        {"separation": 0.5},
        {"rows": 9},
        {"min_rows": 5},
    ],
)
def test_a_setting_against_its_rule_is_refused(wrong: dict[str, float]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} must be .*got {value}"):
        Drift(**wrong)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_keep_order_and_lie_between_raw_and_bonferroni(p: dict[str, float]) -> None:
    adjusted = adjust(p)
    assert set(adjusted) == set(p)
    for name in p:
        assert p[name] <= adjusted[name] <= min(1.0, len(p) * p[name])
        assert all(adjusted[name] <= adjusted[other] for other in p if p[name] < p[other])


def images(n: int, seed: int, contrast: float = 1, offset: float = 0, blur: float = 0, noise: float = 0.03) -> Sample:
    """Blots of ink, seen through a scanner; the champion reads three fixed features of them."""
    rng = np.random.default_rng(seed)
    spots = gaussian_filter((rng.random((n, 16, 16)) < 0.04) * 3.0, (0, 1, 1))
    seen = gaussian_filter(spots, (0, blur, blur)) * contrast + offset + rng.normal(0, noise, spots.shape)
    pixels = np.clip(seen, 0, None).astype(np.float32)[:, None]
    weights = np.random.default_rng(0).normal(size=(256, 32)) / 16
    embedding = np.maximum(pixels.reshape(n, -1) @ weights, 0).astype(np.float32)
    scores = np.exp(embedding[:, :3])
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return Sample(IMAGES, pd.DataFrame(index=range(n)), seed, {"image": pixels}, probabilities, embedding)


IMAGES = Schema.freeze(
    {"image": Feature(kind="tensor", shape=(1, 16, 16))}, pd.DataFrame({"image": [np.zeros((1, 16, 16))]})
)


@pytest.mark.parametrize("scanner", [{"contrast": 0.7}, {"offset": 0.1}, {"blur": 1.0}, {"noise": 0.08}])
def test_another_scanner_fires(scanner: dict[str, float]) -> None:
    finding = judged(Drift(), images(800, 0), images(800, 1, **scanner), 0.01)
    assert finding.answer == Answer.MOVED
    assert {"image.mean", "image.sd", "image.gradient"} & set(moved(finding))


def test_the_same_scanner_does_not_fire() -> None:
    reference = images(800, 0)
    findings = [judged(Drift(), reference, images(800, seed), 0.05) for seed in range(1, 11)]
    assert [f.answer for f in findings] == [Answer.FINE] * 10
    looked_at = {"image.mean", "image.sd", "image.gradient", "confidence", *TOGETHER}
    assert looked_at <= set(findings[0].scores)
    assert "embedding" not in judged(Drift(ignore=("embedding",)), reference, images(800, 1), 0.05).scores


@pytest.mark.parametrize("rows", [100, 200])
def test_a_wide_embedding_and_a_small_reference_are_no_alarm(rows: int) -> None:
    rng = np.random.default_rng(0)
    schema = Schema(columns=())

    def sample(n: int) -> Sample:
        return Sample(schema, pd.DataFrame(index=range(n)), 1, embedding=rng.normal(size=(n, 128)).astype(np.float32))

    answers = [judged(Drift(), sample(rows), sample(400), 0.05).answer for _ in range(8)]
    assert answers.count(Answer.MOVED) <= 1


def watched(n: int, rng: np.random.Generator, new: int = 0) -> Sample:
    """Rows of three classes around centers of their own, and some of which the champion knows none."""
    centers = 3 * np.eye(3, 16)
    embedding = centers[rng.integers(0, 3, n)] + rng.normal(size=(n, 16))
    embedding[:new] = rng.normal(size=(new, 16))
    scores = np.exp(embedding[:, :3])
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    frame = pd.DataFrame(index=range(n))
    return Sample(Schema(columns=()), frame, 1, {}, probabilities, embedding.astype(np.float32))


def test_quiet_windows_of_a_champions_embedding_alarm_no_more_often_than_promised() -> None:
    rng, monitor, alpha = np.random.default_rng(0), Drift(), 0.05
    found = [judged(monitor, watched(150, rng), watched(120, rng), alpha) for _ in range(200)]
    assert all({"embedding", "embedding.kernel", "entropy", "confidence"} <= {*f.scores} for f in found)
    assert binomtest(sum(f.answer is Answer.MOVED for f in found), 200, alpha, "greater").pvalue > 0.01


def test_rows_of_a_class_that_the_champion_never_saw_make_it_unsure() -> None:
    rng = np.random.default_rng(0)
    finding = judged(Drift(), watched(600, rng), watched(600, rng, new=60), 0.02)
    assert "entropy" in finding.alarms
    assert "of its rows the champion is less sure than of 90% of the reference's" in "".join(finding.reasons)
    assert "entropy" not in judged(Drift(ignore=("entropy",)), watched(600, rng), watched(600, rng), 0.02).scores


def test_of_a_regression_and_without_calibration_no_entropy_is_judged() -> None:
    rng = np.random.default_rng(0)
    before, now = (dataclasses.replace(watched(200, rng), probabilities=None) for _ in range(2))
    assert "embedding.kernel" in judged(Drift(), before, now, 0.02).scores
    assert "entropy" not in judged(Drift(), before, now, 0.02).scores
    assert "entropy" not in judged(Drift(calibrate=False), watched(200, rng), watched(200, rng), 0.02).scores


def test_rows_of_one_group_count_once_among_the_unsure() -> None:
    rng = np.random.default_rng(0)
    before, now = watched(200, rng), watched(200, rng, new=20)
    copies = np.repeat(np.arange(200), 4)
    grouped = dataclasses.replace(now.take(copies), groups=copies.astype(np.uint64))
    once, again = (judged(Drift(), before, sample, 0.05).scores["entropy"] for sample in (now, grouped))
    assert once == again


@pytest.mark.parametrize("sizes", [(100, 100), (2000, 100), (275, 700)])
def test_the_upper_tail_of_quiet_samples_is_as_often_small_as_it_says(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    found = [tail(*(np.round(rng.normal(size=n), 1) for n in sizes)) for _ in range(300)]
    for alpha in (0.05, 0.01):
        assert binomtest(sum(f.p <= alpha for f in found), 300, alpha, "greater").pvalue > 0.01
    assert np.mean([f.effect > f.chance for f in found]) < 0.03


def test_samples_that_are_all_alike_have_no_tail() -> None:
    assert tail(np.zeros(100), np.zeros(200)) == Score(0.0, 1.0, 0.0)


def test_a_champion_that_gives_nan_or_another_width_is_not_judged_by_it() -> None:
    reference, window = images(200, 0), images(200, 1)
    assert window.embedding is not None
    window.embedding[:] = np.nan
    assert any("embedding was not judged" in r for r in judged(Drift(), reference, window, 0.05).reasons)
    narrow = Sample(IMAGES, window.frame, 1, window.inputs, window.probabilities, window.embedding[:, :5])
    assert any("5 wide in the window and 32" in r for r in judged(Drift(), reference, narrow, 0.05).reasons)


def test_a_feature_may_bear_the_name_of_a_statistic() -> None:
    frame = pd.DataFrame({"confidence": np.random.default_rng(0).normal(size=200)})
    schema = Schema.freeze({"confidence": Feature()}, frame)
    sample = Sample(schema, frame, 1, probabilities=np.full((200, 2), 0.5, np.float32))
    assert {"confidence", "derived.confidence"} <= set(judged(Drift(), sample, sample, 0.05).scores)


def test_tensor_statistics_by_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = np.random.default_rng(0).normal(size=(50, 2, 5, 4)).astype(np.float32)
    tensors[3, 0, 0, 0] = np.nan
    whole = tensor_statistics(tensors)
    monkeypatch.setattr(columns, "BLOCK", 300)
    parts = tensor_statistics(tensors)
    assert [np.isnan(v).sum() for v in whole.values()] == [1, 1, 1]
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values)
    np.testing.assert_allclose(whole["mean"][5], tensors[5].mean(), rtol=1e-5)


def test_what_is_kept_of_a_window_draws_every_column_without_its_rows() -> None:
    frame = table(400, 5).assign(zeros=np.nan, normal=lambda f: f["normal"] + 1, letter="new")
    case = case_of(Drift(), REFERENCE, Sample(SCHEMA, frame, 1), 0.05)
    drawn = {f.name: f for f in Drift().figures(case.fitted, Drift().keep(case))}
    assert set(drawn) == set(SCHEMA.names)
    for name, figure in drawn.items():
        assert figure.before.sum() == pytest.approx(1.0), name
        assert figure.now.sum() == pytest.approx(0.0 if name == "zeros" else 1.0), name
        assert len(figure.before) == len(figure.now) == (len(figure.levels) or len(figure.edges) - 1), name
    assert drawn["zeros"].missing[1] == 1.0
    assert dict(zip(drawn["letter"].levels, drawn["letter"].now, strict=True))["new"] == 1.0
    middles = (drawn["normal"].edges[1:] + drawn["normal"].edges[:-1]) / 2
    assert (middles * (drawn["normal"].now - drawn["normal"].before)).sum() == pytest.approx(1.0, abs=0.2)


def test_what_the_champion_and_its_tensors_say_is_kept_too() -> None:
    case = case_of(Drift(), images(200, 0), images(200, 1), 0.05)
    drawn = {f.name for f in Drift().figures(case.fitted, Drift().keep(case))}
    assert {"image.mean", "image.sd", "image.gradient", "confidence"} <= drawn


def test_a_finding_tells_the_limit_of_every_score_and_which_are_beyond() -> None:
    frame = table(400, 5).assign(normal=lambda f: f["normal"] + 1)
    found = judged(Drift(), REFERENCE, Sample(SCHEMA, frame, 1), 0.05)
    assert set(found.limits) == set(found.scores)
    assert "normal" in found.alarms
    assert {reason.partition(" moved:")[0] for reason in found.reasons if " moved:" in reason} == set(found.alarms)
    assert Finding.from_json(found.to_json()) == found


def test_a_check_costs_less_than_a_second() -> None:
    reference, window = images(1344, 0), images(1344, 1)
    judged(Drift(), reference, window, 0.05)
    start = time.process_time()
    judged(Drift(), reference, window, 0.05)
    assert time.process_time() - start < 1.0


def test_evidently_is_told_not_to_report_home() -> None:
    assert os.environ["DO_NOT_TRACK"]
