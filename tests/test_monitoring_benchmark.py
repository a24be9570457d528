"""What the benchmark of the monitors stands on: its streams are what they are said to be, and so are their shifts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import figures
import footprint
import monitoring
import preset
import rates
import speed
import streams
from telling import Ground, Told

STREAM = streams.generated(10)


def window(rows: int, seed: int) -> pd.DataFrame:
    return STREAM.draw(np.random.default_rng(seed), rows)


def test_a_generated_stream_has_columns_of_every_kind_and_pairs_that_go_together() -> None:
    assert list(STREAM.kinds.values()) == [*streams.KINDS, *streams.KINDS]
    frame = window(20_000, 1)
    assert (frame["zeros_3"] == 0).mean() == pytest.approx(0.69, abs=0.02)
    assert (frame["integer_2"] == frame["integer_2"].round()).all()
    assert frame["heavy_1"].kurt() > 10
    assert frame["category_4"].value_counts(normalize=True)["a"] == pytest.approx(0.4, abs=0.02)
    assert frame[["normal_0", "heavy_1"]].corr(method="spearman").iloc[0, 1] == pytest.approx(0.35, abs=0.02)
    assert ("normal_0", "heavy_1") in STREAM.pairs
    assert all(abs(frame[list(pair)].corr(method="spearman").iloc[0, 1]) > 0.28 for pair in STREAM.pairs)


def test_a_deck_deals_each_row_once_before_it_is_shuffled_anew() -> None:
    deck = streams.Deck(pd.DataFrame({"x": range(100)}))
    rng = np.random.default_rng(0)
    first, second, third = (deck.deal(rng, 40)["x"].tolist() for _ in range(3))
    assert len({*first, *second}) == 80
    assert len({*third}) == 40
    assert {*third} & {*first, *second}


def shifted(name: str, seed: int = 1) -> tuple[pd.DataFrame, streams.Shifted]:
    frame = window(20_000, seed)
    return frame, streams.SHIFTS[name](STREAM, frame, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(8))
def test_a_shift_is_as_large_as_it_says_and_leaves_the_other_columns(seed: int) -> None:
    for name in streams.SHIFTS:
        frame, shift = shifted(name, seed)
        others = [n for n in frame if n not in shift.where]
        assert shift.frame[others].equals(frame[others])
        assert not shift.frame.equals(frame)
    frame, shift = shifted("mean 0.25 sd", seed)
    column = shift.where[0]
    moved = shift.frame[column].mean() - frame[column].mean()
    assert moved / STREAM.known[column].std() == pytest.approx(0.25, abs=0.01)
    frame, shift = shifted("scale 1.5", seed)
    if shift.kind in ("normal", "heavy"):
        assert shift.frame[shift.where[0]].std() / frame[shift.where[0]].std() == pytest.approx(1.5)
    frame, shift = shifted("missing 20 %", seed)
    assert shift.frame[shift.where[0]].isna().mean() == pytest.approx(0.2, abs=0.02)
    frame, shift = shifted("category +15 points", seed)
    before, now = (f[shift.where[0]].value_counts(normalize=True) for f in (frame, shift.frame))
    assert (now - before).max() == pytest.approx(0.15, abs=0.015)
    frame, shift = shifted("correlation broken", seed)
    assert abs(shift.frame[list(shift.where)].corr(method="spearman").iloc[0, 1]) < 0.05
    assert all(sorted(shift.frame[n]) == sorted(frame[n]) for n in shift.where)


@pytest.mark.parametrize("shift", ["mean 0.25 sd", "scale 1.5"])
def test_whole_numbers_stay_whole_and_zeros_zero_since_else_nobody_could_miss_it(shift: str) -> None:
    seen = set()
    for seed in range(20):
        frame, changed = shifted(shift, seed)
        values = changed.frame[changed.where[0]]
        seen.add(changed.kind)
        if changed.kind == "integer":
            assert (values == values.round()).all()
        if changed.kind == "zeros":
            assert ((values == 0) == (frame[changed.where[0]] == 0)).all()
    assert {"integer", "zeros"} <= seen


def test_the_bound_of_a_rate_is_that_of_clopper_and_pearson_on_one_side() -> None:
    assert rates.at_least(0, 300) == 0
    assert rates.at_least(29, 300) == pytest.approx(beta.ppf(0.001, 29, 272))


def test_windows_of_a_cell_are_cut_into_tasks_with_seeds_of_their_own() -> None:
    cell, other = rates.Cell("generated", 5, 200), rates.Cell("generated", 25, 200)
    work = rates.tasks({cell: 50, other: 20}, seed=7)
    assert [(t.cell, t.windows) for t in work] == [(other, 20), (cell, 20), (cell, 20), (cell, 10)]
    assert len({t.seed for t in work}) == 4


def test_what_is_found_is_counted_and_named() -> None:
    changed = rates.Cell("generated", 5, 1000, shift="missing 20 %")
    _, counts = rates.look(rates.Task(changed, 3, (0,)))
    assert (counts["windows"], counts["trimtab"], counts["named"]) == (3, 3, 3)
    _, counts = rates.look(rates.Task(rates.Cell("generated", 5, 200), 3, (0,)))
    assert (counts["windows"], counts["trimtab"]) == (3, 0)


def test_both_sides_give_the_same_verdict_for_every_column_and_not_the_same_for_all() -> None:
    stream = streams.generated(speed.COLUMNS)
    sitting = speed.sit(stream, 4000, np.random.default_rng(0))
    assert sitting.differ == ()
    assert 4 <= sitting.drifted <= 20
    assert min(sitting.evidently, sitting.alike, sitting.all, sitting.reference) > 0


def test_the_share_of_drifted_columns_is_evidentlys_own() -> None:
    before, now = window(2000, 1), window(1000, 2).assign(normal_0=lambda f: f["normal_0"] + 1)
    verdicts = preset.preset(before, now, STREAM.categories)
    assert verdicts["normal_0"]
    assert preset.drifted_columns(before, now, STREAM.categories) == sum(verdicts.values()) / 10
    with pytest.raises(ValueError, match="more than 1000 rows"):
        preset.preset(before[:900], now, STREAM.categories)


def test_a_fresh_process_looks_at_the_first_rows_of_what_another_wrote() -> None:
    (told,) = footprint.measured([20_000], 5, seed=0, times=1)
    assert (told["rows"], told["columns"], told["answer"]) == (20_000, 5, "fine")
    assert 50 < told["peak_mib"] < 1536


def test_parts_run_alone_and_leave_the_figures_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    for number, name in enumerate(("speed", "memory")):
        monkeypatch.setitem(monitoring.PARTS, name, lambda ground, n=number: Told({f"part_{n}": ground.seed}))
        monkeypatch.setattr(sys, "argv", ["monitoring.py", "--only", name, "--seed", str(number)])
        monitoring.main()
    kept = json.loads((tmp_path / "monitoring.json").read_text())["figures"]
    assert (kept["part_0"], kept["part_1"]) == (0, 1)
    assert set(kept["seconds"]) == {"speed", "memory"}
    monkeypatch.setattr(sys, "argv", ["monitoring.py", "--only", "sped"])
    with pytest.raises(SystemExit):
        monitoring.main()
    assert "no part 'sped'; there are speed, memory" in capsys.readouterr().err


def test_quick_runs_have_few_windows_of_the_same_cells() -> None:
    assert set(rates.quiet_cells(True)) == set(rates.quiet_cells(False))
    assert max(rates.quiet_cells(True).values()) < min(rates.quiet_cells(False).values())
    assert Ground().jobs == 1
