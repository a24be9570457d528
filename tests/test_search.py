"""Which recipe comes next: given ones first, a little of everything, more of what does well, and nothing twice."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import discover
from trimtab.pareto import dominates, front, hypervolume, order, ranks
from trimtab.recipe import Recipe, Step
from trimtab.sampler import Grid, Parameter, Point, Sampler
from trimtab.search import Halving, Search, Task, by_quality
from trimtab.space import Space

RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
PRUNING: list[tuple[str, dict[str, Any]]] = [
    ("prune.channel", {"ratio": RATIOS}),
    ("distill", {"epochs": 18}),
    ("export", {}),
]


def search(space: Space, sampler: Sampler | None = None, **changes: Any) -> Search:
    plain: dict[str, Any] = {"seed": 0, "given": (), "candidates": 99, "objectives": 2}
    return Search(space, sampler or Grid(), **{**plain, **changes})


def run(searching: Search, losses: Callable[[Recipe], tuple[float, ...] | None] = lambda _: (0.0, 0.0)) -> list[Task]:
    tasks = []
    while (task := searching.ask()) is not None:
        tasks.append(task)
        searching.tell(task, losses(task.recipe))
    return tasks


def ratio(recipe: Recipe) -> float:
    return float(recipe.steps[0].settings["ratio"])


def epochs(recipe: Recipe) -> list[int]:
    return [s.settings["epochs"] for s in recipe.steps if "epochs" in s.settings]


def test_given_recipes_come_first_and_in_full() -> None:
    own = Recipe(steps=(Step(technique="distill", settings={"epochs": 7}), Step(technique="export")))
    tasks = run(search(Space(PRUNING), given=[own, own], candidates=3, halving=Halving()))
    assert tasks[0].recipe == own
    assert len({t.whole for t in tasks}) == 3


def test_no_more_recipes_are_begun_than_asked_for_and_none_twice() -> None:
    tasks = run(search(Space(PRUNING), candidates=4))
    assert [ratio(t.recipe) for t in tasks] == RATIOS[:4]


def test_early_stopping_trains_all_a_little_and_the_best_longer_from_where_they_were() -> None:
    tasks = run(search(Space(PRUNING), halving=Halving()), lambda r: (abs(ratio(r) - 0.5), 0.0))
    by_level = {level: [t for t in tasks if t.level == level] for level in range(3)}
    counts = [len(by_level[level]) for level in range(3)]
    assert counts[0] == len(RATIOS)
    assert counts[0] / 2 > counts[1] > counts[2]  # a third each, and what looked well before the best had come
    assert [epochs(by_level[level][0].recipe) for level in range(3)] == [[2], [2, 4], [2, 4, 12]]
    assert {0.4, 0.5, 0.6} <= {ratio(t.recipe) for t in by_level[1]}
    assert 0.5 in {ratio(t.recipe) for t in by_level[2]}


def test_a_promising_recipe_goes_up_before_others_begin() -> None:
    tasks = run(search(Space(PRUNING), halving=Halving()), lambda r: (ratio(r), ratio(r)))
    places = {(ratio(t.recipe), t.level): i for i, t in enumerate(tasks)}
    assert places[0.1, 1] < places[0.9, 0]


def test_with_few_recipes_the_best_is_still_trained_in_full() -> None:
    tasks = run(search(Space(PRUNING), candidates=2, halving=Halving()), lambda r: (ratio(r), ratio(r)))
    assert max(t.level for t in tasks) == 2


def test_batches_begin_each_recipe_once_and_wait_with_the_end_until_all_is_told() -> None:
    searching = search(Space(PRUNING), halving=Halving())
    batches = []
    while tasks := searching.batch(4):
        batches.append([(ratio(t.recipe), t.level) for t in tasks])
        for task in tasks:
            searching.tell(task, (abs(ratio(task.recipe) - 0.5), 0.0))
    assert batches[0] == [(r, 0) for r in RATIOS[:4]]
    assert all(1 <= len(batch) <= 4 for batch in batches)
    begun = [task for batch in batches for task in batch]
    assert len(set(begun)) == len(begun)
    assert {r for r, level in begun if level == 0} == set(RATIOS)
    assert (0.5, 2) in begun


def test_what_failed_does_not_go_up() -> None:
    tasks = run(search(Space(PRUNING), halving=Halving()), lambda _: None)
    assert {t.level for t in tasks} == {0}
    assert len(tasks) == len(RATIOS)


def test_training_that_begins_anew_is_not_built_up_from_pieces() -> None:
    space = Space([("scratch", {"epochs": 9, "learning_rate": [0.1, 0.2, 0.3]}), ("export", {})])
    tasks = run(search(space, halving=Halving()), lambda r: (0.0, float(r.steps[0].settings["learning_rate"])))
    assert sorted({tuple(epochs(t.recipe)) for t in tasks}) == [(1,), (3,), (9,)]


def test_what_a_technique_is_not_told_is_taken_from_the_trainer() -> None:
    space = Space([("prune.channel", {"ratio": [0.2, 0.4, 0.6]}), ("distill", {}), ("export", {})])
    tasks = run(search(space, halving=Halving(), defaults={"epochs": 6}))
    assert epochs(tasks[0].recipe) == [1]


@pytest.mark.parametrize("name", ["grid", "random", "tpe", "nsga2"])
def test_a_sampler_draws_what_counts_within_its_ranges_and_repeats_itself(name: str) -> None:
    space = [
        Parameter("train", ("none", "finetune")),
        Parameter("rate", low=0.001, high=0.1, log=name != "grid", step=0.001 if name == "grid" else None)
        if name == "grid"
        else Parameter("rate", low=0.001, high=0.1, log=True),
        Parameter("epochs", low=2, high=8, whole=True, when=("train", ("finetune",))),
    ]

    def draw() -> list[dict[str, Any]]:
        draws = discover.build("samplers", name, {}, "optimize.sampler").begin(space, 2, seed=3)
        points = []
        for i in range(12):
            point = draws.ask()
            assert point is not None
            draws.tell(point, None if i % 5 == 4 else (point["rate"], -point["rate"]))
            points.append(point)
        return points

    points = draw()
    assert points == draw()
    for point in points:
        assert 0.001 <= point["rate"] <= 0.1
        assert ("epochs" in point) == (point["train"] == "finetune")
        assert point.get("epochs", 2) in range(2, 9)


def test_tpe_learns_where_the_loss_is_small() -> None:
    draws = discover.build("samplers", "tpe", {}, "optimize.sampler").begin([Parameter("x", low=0.0, high=1.0)], 1, 0)
    drawn = []
    for _ in range(40):
        point = draws.ask()
        drawn.append(point["x"])
        draws.tell(point, ((point["x"] - 0.8) ** 2,))
    assert sum(abs(x - 0.8) < 0.1 for x in drawn[-15:]) > sum(abs(x - 0.8) < 0.1 for x in drawn[:15])


Points = st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=12)


@given(Points)
@settings(max_examples=60)
def test_nothing_on_the_front_is_dominated_and_everything_else_is(points: list[tuple[int, ...]]) -> None:
    best = {i for i, rank in enumerate(ranks(points)) if rank == 0}
    assert best == set(front(points))
    for i, point in enumerate(points):
        assert (i in best) != any(dominates(other, point) for other in points)
    assert ranks(points)[order(points)[0]] == 0


@given(Points, st.tuples(*[st.integers(0, 6)] * 3))
@settings(max_examples=60)
def test_a_front_covers_what_counting_cells_says_and_no_less_with_one_more(
    points: list[tuple[int, ...]], more: tuple[int, ...]
) -> None:
    reference = (7, 7, 7)
    cells = {(x, y, z) for a, b, c in points for x in range(a, 7) for y in range(b, 7) for z in range(c, 7)}
    assert hypervolume(points, reference) == len(cells)
    assert hypervolume([*points, more], reference) >= len(cells)


def test_a_grid_passes_over_what_does_not_count_instead_of_multiplying_it() -> None:
    names = [f"t{i}" for i in range(30)]
    settings_ = [Parameter(f"{name}.x", tuple(range(5)), when=("train", (name,))) for name in names]
    draws = Grid().begin([Parameter("train", tuple(names)), *settings_], 1, 0)
    points = []
    while (point := draws.ask()) is not None:
        points.append(point)
    assert len(points) == 30 * 5  # and not 5 ** 30 of them
    assert all(set(p) == {"train", f"{p['train']}.x"} for p in points)


def test_a_sampler_is_told_that_what_failed_is_no_better_than_the_worst() -> None:
    draws = Remembering()
    searching = search(Space(PRUNING), draws)
    for losses in ((1.0, 5.0), (3.0, 2.0), None):
        task = searching.ask()
        assert task is not None
        searching.tell(task, losses)
    assert draws.told[-3:] == [(1.0, 5.0), (3.0, 2.0), [3.0, 5.0]]


class Remembering:
    """A grid that keeps what it is told."""

    name: ClassVar[str] = "remembering"

    def __init__(self) -> None:
        self.told: list[Sequence[float] | None] = []

    def begin(self, space: Sequence[Parameter], objectives: int, seed: int) -> "Remembering":
        self.draws = Grid().begin(space, objectives, seed)
        return self

    def ask(self) -> dict[str, Any] | None:
        return self.draws.ask()

    def tell(self, point: Point, losses: Sequence[float] | None) -> None:
        self.told.append(losses)


def test_where_quality_is_all_the_best_in_quality_goes_up() -> None:
    worth = dict(zip(RATIOS, [(0.5, 0), (0.4, 9), (0.6, -9)] * 3, strict=True))
    tasks = run(search(Space(PRUNING), halving=Halving(), rank=by_quality), lambda r: worth[ratio(r)])
    assert {ratio(t.recipe) for t in tasks if t.level == 1} == {0.2, 0.5, 0.8}
