"""Trainers and techniques of scikit-learn: what is stored, pruned, tuned and exported, seen in the artifact."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pytest
import scipy.sparse
from sklearn.ensemble import HistGradientBoostingClassifier

from tests import estimators
from trimtab import discover
from trimtab.artifact import Model
from trimtab.data import Data, Role
from trimtab.errors import ArtifactError, DataError, OutOfTimeError, PluginError, SettingsError
from trimtab.runtime import Session
from trimtab.space import Space
from trimtab.technique import Job
from trimtab.window import Schema
from trimtab_sklearn import store
from trimtab_sklearn.export import Export
from trimtab_sklearn.fit import Fit
from trimtab_sklearn.fitted import Fitted, final
from trimtab_sklearn.prune import PruneLeaves, PruneTrees, order_trees
from trimtab_sklearn.trainer import Classifier, Regressor
from trimtab_sklearn.tune import Tune

FAMILIES = ("random_forest", "extra_trees", "gradient_boosting", "hist_gradient_boosting", "decision_tree", "linear")
FEW = {"random_forest": {"n_estimators": 8}, "extra_trees": {"n_estimators": 8}}
FEW |= {"gradient_boosting": {"n_estimators": 8}, "hist_gradient_boosting": {"max_iter": 8}}


@dataclasses.dataclass
class Table:
    """A table split into roles, and a place to work in."""

    folder: Path
    schema: Schema
    data: Data
    frame: pd.DataFrame
    count: itertools.count[int] = dataclasses.field(default_factory=itertools.count)

    def job(self, **settings: Any) -> Job:
        return estimators.job(self.folder / f"job-{next(self.count)}", self.schema, **settings)

    def parent(self, trainer: Any) -> Model:
        model: Model = trainer.fit(self.data, self.job())
        return model

    def apply(self, technique: Any, model: Model, **settings: Any) -> Model:
        made: Model = technique.apply(model, self.data, self.job(**settings))
        return made

    def session(self, model: Model) -> Session:
        session: Session = discover.build("runtimes", "onnxruntime", {}, "targets").load(model)
        return session

    @property
    def rows(self) -> Any:
        return self.data.rows(Role.JUDGE)


def table(folder: Path, frame: pd.DataFrame, *schema: Any) -> Table:
    frozen = estimators.schema_of(frame, *schema)
    return Table(folder, frozen, estimators.data_of(folder / "data", frozen, frame), frame)


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return table(tmp_path_factory.mktemp("claims"), estimators.claims(600, 0))


@pytest.fixture(scope="module")
def amounts(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return table(tmp_path_factory.mktemp("amounts"), estimators.claims(600, 1), "loss", "regression")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Numbers alone, rounded so that many are alike, of three classes."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(1500, 4)).round(2)
    kind = (values[:, 0] + values[:, 1] * values[:, 2] > 0).astype(int) + (values[:, 3] > 0.8)
    kind = np.where(rng.random(1500) < 0.15, rng.integers(0, 3, 1500), kind)
    frame = pd.DataFrame(values, columns=list("abcd")).assign(y=kind)
    return table(tmp_path_factory.mktemp("numbers"), frame, "y", "classification", *"abcd")


@pytest.fixture(scope="module")
def forest(numbers: Table) -> Model:
    return numbers.parent(Classifier(family="random_forest", arguments={"n_estimators": 40}))


def gap(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def trees_in(model: Model) -> tuple[int, int]:
    """Return how many trees the exported graph has, and how many leaves."""
    graph = onnx.load(model.folder / "model.onnx").graph
    (node,) = [n for n in graph.node if n.op_type.startswith("TreeEnsemble")]
    told = {a.name: a for a in node.attribute}
    modes = [m for m in told["nodes_modes"].strings if m == b"LEAF"]
    return len(set(told["nodes_treeids"].ints)), len(modes)


# what is stored


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_stored_without_a_pickle_and_comes_back_the_same(claims: Table, family: str) -> None:
    trainer = Classifier(family=family, arguments=FEW.get(family, {}))
    model, again = claims.parent(trainer), claims.parent(trainer)
    assert model.format == "sklearn"
    assert model.digest == again.digest
    with zipfile.ZipFile(model.folder / "estimator.skops") as file:
        assert {name.rpartition(".")[2] for name in file.namelist()} == {"npy", "json"}
        for name in file.namelist():
            with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError)):
                pickle.loads(file.read(name))  # noqa: S301 (it must not load)
    there = Fitted.load(model)
    answers = there.answer(claims.rows.inputs)
    assert np.array_equal(answers, Fitted.load(again).answer(claims.rows.inputs))
    assert (answers.argmax(axis=1) == claims.rows.labels).mean() > 0.65


Content = dict[str, Any]


def altered(model: Model, folder: Path, change: Callable[[Content], None], spec: dict[str, Any] | None = None) -> Model:
    """Return a copy of a model in whose files something was changed."""
    folder.mkdir()
    for path in model.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with zipfile.ZipFile(folder / "estimator.skops") as file:
        content: Content = {name: file.read(name) for name in file.namelist()}
    content["schema.json"] = json.loads(content["schema.json"])
    change(content)
    content["schema.json"] = json.dumps(content["schema.json"]).encode()
    with zipfile.ZipFile(folder / "estimator.skops", "w") as file:
        for name, value in content.items():
            file.writestr(name, value)
    told = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(told | (spec or {})))
    return Model.at(folder, "sklearn")


def in_first_node(column: str, value: int) -> Callable[[Content], None]:
    """Alter the root of the first tree that has such a column."""

    def change(content: Content) -> None:
        for name, held in content.items():
            if not name.endswith(".npy"):
                continue
            array = np.load(io.BytesIO(held))
            if array.dtype.names and column in array.dtype.names:
                array[column][0] = value
                buffer = io.BytesIO()
                np.save(buffer, array)
                content[name] = buffer.getvalue()
                return
        raise AssertionError(f"no tree has {column}")

    return change


def settings_of(node: Any, kind: str) -> dict[str, Any]:
    """Return the description of the first object of a type in what skops wrote."""
    if isinstance(node, dict) and node.get("__class__") == kind and "content" in node:
        return node
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return next((found for v in inner if (found := settings_of(v, kind))), {})


def test_a_file_that_names_another_type_runs_nothing(forest: Model, tmp_path: Path) -> None:
    def change(content: Content) -> None:
        content["schema.json"]["__module__"], content["schema.json"]["__class__"] = "tests.estimators", "Doubling"

    with pytest.raises(ArtifactError, match=r"cannot be read as an estimator: .*tests\.estimators\.Doubling"):
        Fitted.load(altered(forest, tmp_path / "altered", change))


@pytest.mark.parametrize(
    ("family", "column", "value"),
    [
        ("random_forest", "left_child", 100_000),
        ("random_forest", "right_child", 0),
        ("random_forest", "feature", 4),
        ("gradient_boosting", "feature", 4),
        ("hist_gradient_boosting", "left", 100_000),
        ("hist_gradient_boosting", "feature_idx", 4),
    ],
)
def test_a_tree_whose_nodes_point_nowhere_is_refused_before_it_is_asked(
    numbers: Table, tmp_path: Path, family: str, column: str, value: int
) -> None:
    model = numbers.parent(Classifier(family=family, arguments=FEW[family]))
    with pytest.raises(ArtifactError, match=r"a tree.* not there"):
        Fitted.load(altered(model, tmp_path / "altered", in_first_node(column, value)))


def test_a_tree_that_splits_by_categories_is_refused(numbers: Table, tmp_path: Path) -> None:
    model = numbers.parent(Classifier(family="hist_gradient_boosting", arguments={"max_iter": 2}))
    with pytest.raises(ArtifactError, match="splits by categories"):
        Fitted.load(altered(model, tmp_path / "altered", in_first_node("is_categorical", 1)))


def test_a_boosting_with_more_trees_than_values_is_refused(numbers: Table, tmp_path: Path) -> None:
    """scikit-learn writes what they answer beyond the end of the rows' values."""
    model = numbers.parent(Classifier(family="gradient_boosting", arguments={"n_estimators": 2}))

    def change(content: Content) -> None:
        boosting = settings_of(content["schema.json"], "GradientBoostingClassifier")
        for stage in boosting["content"]["content"]["estimators_"]["content"]:
            stage["content"].append(stage["content"][0])

    with pytest.raises(ArtifactError, match="more or fewer trees in a stage than it has values"):
        Fitted.load(altered(model, tmp_path / "altered", change))


def test_a_file_that_unpacks_to_more_than_memory_holds_is_refused_before_it_is_unpacked(
    forest: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(content: Content) -> None:
        first = next(name for name in content if name.endswith(".npy"))
        content[first] = bytes(64 << 20)

    swollen = altered(forest, tmp_path / "altered", change)
    monkeypatch.setattr(store, "MOST_BYTES", 10 << 20)
    assert Fitted.load(forest)
    with pytest.raises(ArtifactError, match=r"unpacks to 6[4-9] MiB, at most 10 MiB are read"):
        Fitted.load(swollen)


def test_a_part_of_a_file_counts_as_often_as_it_is_named(
    forest: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(content: Content) -> None:
        parts = [n for n in content if n.endswith(".npy")]
        largest = max(parts, key=lambda n: len(content[n]))
        content["schema.json"]["again"] = [{"file": largest}] * 100

    swollen = altered(forest, tmp_path / "altered", change)
    packed = sum(part.file_size for part in zipfile.ZipFile(swollen.folder / "estimator.skops").infolist())
    monkeypatch.setattr(store, "MOST_BYTES", 2 * packed)
    with pytest.raises(ArtifactError, match=r"MiB are read"):
        Fitted.load(swollen)


def test_a_part_that_is_packed_in_itself_is_refused(forest: Model, tmp_path: Path) -> None:
    """A sparse matrix is a packed archive within the archive: a few kilobytes of it may be gigabytes."""
    packed = io.BytesIO()
    scipy.sparse.save_npz(packed, scipy.sparse.csr_matrix((1000, 10)))

    def change(content: Content) -> None:
        content["sparse.npy"] = packed.getvalue()
        of_another_loader = {"__class__": "dtype", "__module__": "numpy", "__loader__": "SparseMatrixNode"}
        settings = content["schema.json"]["content"]["content"]
        settings["verbose"] = {**of_another_loader, "type": "scipy", "file": "sparse.npy", "__id__": 999_999}

    with pytest.raises(ArtifactError, match=r"sparse\.npy is no array as one is written"):
        Fitted.load(altered(forest, tmp_path / "altered", change))


def test_a_damaged_file_and_another_version_are_told(forest: Model, tmp_path: Path) -> None:
    path = tmp_path / "estimator.skops"
    path.write_bytes((forest.folder / "estimator.skops").read_bytes()[:999])
    import sklearn

    with pytest.raises(ArtifactError, match="cannot be read as an estimator"):
        store.read(path, sklearn.__version__)
    with pytest.raises(ArtifactError, match=r"fitted by scikit-learn 0\.1, .*sklearn\.fit"):
        store.read(path, "0.1")


def test_only_the_factory_that_the_project_names_is_called(claims: Table) -> None:
    model = claims.parent(Classifier(factory="tests.estimators:logistic"))
    with pytest.raises(ArtifactError, match="the project names 'mine:build'"):
        Fitted.load(model, "mine:build")


def unchanged(_content: Content) -> None:
    """Leave the estimator's file as it is."""


def test_a_spec_that_names_a_factory_runs_nothing_where_the_project_names_none(numbers: Table, tmp_path: Path) -> None:
    trainer, there = Classifier(family="decision_tree"), tmp_path / "there"
    call = {"args": ["touch", str(there)]}
    spec = {"factory": "subprocess:check_output", "family": None, "arguments": call}
    model = altered(numbers.parent(trainer), tmp_path / "altered", unchanged, spec)
    for technique in (Fit(), Tune(trials=1)):
        for training in ({}, dataclasses.asdict(trainer)):
            with pytest.raises(ArtifactError, match="'subprocess:check_output', which the project does not name"):
                numbers.apply(technique, model, training=training)
    assert not there.exists()


@pytest.mark.parametrize(
    "spec",
    [
        {"family": "oak"},
        {"factory": ["os", "system"]},
        {"tuned": "all"},
        {"asked": {"family": "linear"}},
        {"schema": 1},
    ],
)
def test_a_spec_of_something_else_is_told(forest: Model, tmp_path: Path, spec: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"spec\.json is no spec of an estimator"):
        Fitted.load(altered(forest, tmp_path / "altered", unchanged, spec))


def test_what_was_tuned_for_parts_that_are_gone_is_told(numbers: Table, tmp_path: Path) -> None:
    model = altered(
        numbers.parent(Classifier(family="linear")), tmp_path / "altered", unchanged, {"tuned": {"model__C": 2.0}}
    )
    with pytest.raises(PluginError, match=r"what sklearn\.tune found earlier, .*model__C.* change model\.arguments"):
        numbers.apply(Fit(), model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factory": "tests.estimators:nothing"}, "must return an unfitted estimator"),
        ({"factory": "tests.estimators:logistic", "arguments": {"strengh": 1}}, None),
        ({"factory": "tests.estimators:forest", "arguments": {"tree": 1}}, r"no such parameter.*Did you mean 'trees'"),
        ({"family": "linear", "arguments": {"c": 1}}, "LogisticRegression does not take"),
        ({"family": "linear", "arguments": {"C": -1}}, "cannot fit the estimator"),
    ],
)
def test_a_factory_that_does_not_do_is_told(claims: Table, settings: dict[str, Any], words: str | None) -> None:
    with pytest.raises(PluginError, match=words or "raised TypeError"):
        claims.parent(Classifier(**settings))


def test_the_user_s_own_types_are_refused_when_they_are_stored(numbers: Table) -> None:
    with pytest.raises(PluginError, match=r"holds tests\.estimators\.Doubling, and only scikit-learn's own"):
        numbers.parent(Classifier(factory="tests.estimators:doubled"))


# export


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exported_with_text_and_categories(claims: Table, family: str) -> None:
    model = claims.parent(Classifier(family=family, arguments=FEW.get(family, {})))
    exported = claims.apply(Export(), model)
    found = claims.session(exported).predict(claims.rows.inputs)
    assert gap(found, Fitted.load(model).answer(claims.rows.inputs)) <= 1e-5
    graph = onnx.load(exported.folder / "model.onnx").graph
    assert [i.name for i in graph.input] == ["numeric", "branch", "note"]
    assert [o.name for o in graph.output] == ["probabilities"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_regresses(amounts: Table, family: str) -> None:
    model = amounts.parent(Regressor(family=family, arguments=FEW.get(family, {})))
    exported = amounts.apply(Export(), model)
    found = amounts.session(exported).predict(amounts.rows.inputs)
    assert gap(found, Fitted.load(model).answer(amounts.rows.inputs)) <= 1e-5
    assert exported.folder.joinpath("facts.json").is_file()


def test_rows_that_nobody_saw_are_answered_as_the_pipeline_answers_them(claims: Table) -> None:
    model = claims.parent(Classifier(factory="tests.estimators:logistic"))
    session = claims.session(claims.apply(Export(), model))
    strange = estimators.claims(5, 9).assign(
        branch=["east", None, "", "north", "NORTH"],
        note=["", "ÜBERWEISUNG überweisung naïve", None, "  !! ", "late late\nlate\tdispute-paid"],
        age=[np.nan, 0, -5, 1e9, 3],
    )
    inputs = claims.schema.encode(strange)
    for count in (1, 5):
        some = {name: values[:count] for name, values in inputs.items()}
        assert gap(session.predict(some), Fitted.load(model).answer(some)) <= 1e-5


def test_no_threshold_sends_a_row_another_way(tmp_path: Path) -> None:
    """Neighbouring float32 numbers: what lies between is a threshold that rounds up to the larger one."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(400, 1)).astype(np.float32)
    values = np.where(rng.random((400, 1)) < 0.5, base, np.nextafter(base, np.float32(np.inf)))
    frame = pd.DataFrame({"a": values[:, 0], "y": (values[:, 0] != base[:, 0]).astype(int)})
    near = table(tmp_path, frame, "y", "classification", "a")
    for family in ("decision_tree", "hist_gradient_boosting"):
        model = near.parent(Classifier(family=family))
        found = near.session(near.apply(Export(), model)).predict(near.rows.inputs)
        assert gap(found, Fitted.load(model).answer(near.rows.inputs)) <= 1e-5


def test_a_class_without_training_rows_has_probability_0(numbers: Table, tmp_path: Path) -> None:
    known = table(tmp_path, numbers.frame[numbers.frame.y != 1], "y", "classification", *"abcd")
    three = dataclasses.replace(known, schema=numbers.schema)
    data = dataclasses.replace(three, data=estimators.data_of(tmp_path / "three", numbers.schema, known.frame))
    model = data.parent(Classifier(family="linear"))
    found = data.session(data.apply(Export(), model)).predict(data.rows.inputs)
    assert found.shape[1] == 3
    assert (found[:, 1] == 0).all()
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)


def test_what_converts_to_something_else_is_refused(numbers: Table, tmp_path: Path) -> None:
    """Missing numbers that reach a forest: skl2onnx sends them all one way, in silence."""
    frame = numbers.frame.assign(b=numbers.frame.b.where(np.arange(len(numbers.frame)) % 9 > 0))
    holes = table(tmp_path, frame, "y", "classification", *"abcd")
    model = holes.parent(Classifier(factory="tests.estimators:unimputed_forest"))
    with pytest.raises(PluginError, match=r"on \d+ of 900 training rows .* differs .*SimpleImputer before it"):
        holes.apply(Export(), model)


def test_a_boosting_with_categories_of_its_own_is_refused_when_it_is_stored(numbers: Table, tmp_path: Path) -> None:
    codes = numbers.frame.assign(a=numbers.frame.a.round().clip(0, 3))
    with pytest.raises(PluginError, match=r"holds functools\.partial, .* only scikit-learn's own parts"):
        table(tmp_path, codes, "y", "classification", *"abcd").parent(
            Classifier(factory="tests.estimators:coded_boosting")
        )


def test_a_text_setting_that_onnx_reads_otherwise_is_refused(claims: Table) -> None:
    model = claims.parent(Classifier(factory="tests.estimators:logistic", arguments={"analyzer": "char_wb"}))
    with pytest.raises(PluginError, match="model does not export: skl2onnx does not convert"):
        claims.apply(Export(), model)


def test_a_classifier_without_probabilities_is_refused(claims: Table) -> None:
    fitted = Fitted.load(claims.parent(Classifier(factory="tests.estimators:machine")))
    with pytest.raises(PluginError, match="LinearSVC gives no probabilities; wrap it in CalibratedClassifierCV"):
        fitted.answer(claims.rows.inputs)


# pruning


def test_trees_are_gone_from_the_graph_and_little_is_lost(numbers: Table, forest: Model) -> None:
    pruned = numbers.apply(PruneTrees(keep=0.25), forest)
    whole, small = (numbers.apply(Export(), m) for m in (forest, pruned))
    assert (trees_in(whole)[0], trees_in(small)[0]) == (40, 10)
    assert small.size_bytes < 0.35 * whole.size_bytes
    assert (pruned.facts["trees_before"], pruned.facts["trees"]) == (40, 10)
    right = [
        (numbers.session(m).predict(numbers.rows.inputs).argmax(1) == numbers.rows.labels).mean()
        for m in (whole, small)
    ]
    assert right[1] > right[0] - 0.03


def test_chosen_trees_do_better_together_than_the_first_ones(numbers: Table, forest: Model) -> None:
    held = numbers.data.rows(Role.CALIBRATION)
    wanted = np.eye(3)[held.labels]
    chosen = Fitted.load(numbers.apply(PruneTrees(keep=0.1), forest))
    first = Fitted.load(forest)
    final(first.estimator).estimators_ = final(first.estimator).estimators_[:4]
    errors = [float(((m.answer(held.inputs) - wanted) ** 2).mean()) for m in (first, chosen)]
    assert errors[1] < errors[0]


def test_each_next_tree_is_the_best_of_those_left() -> None:
    rng = np.random.default_rng(5)
    votes, wanted = rng.normal(size=(6, 30)), rng.normal(size=30)
    order = order_trees(votes, wanted)
    assert sorted(order) == list(range(6))
    for count in range(6):
        errors = {
            tree: float(((votes[[*order[:count], tree]].mean(axis=0) - wanted) ** 2).sum()) for tree in order[count:]
        }
        assert min(errors, key=errors.__getitem__) == order[count]


@pytest.mark.parametrize("family", ["gradient_boosting", "hist_gradient_boosting"])
def test_a_boosting_loses_its_last_stages_alone(numbers: Table, family: str) -> None:
    arguments = {"max_iter": 40} if family.startswith("hist") else {"n_estimators": 40}
    model = numbers.parent(Classifier(family=family, arguments=arguments))
    pruned = numbers.apply(PruneTrees(keep=0.5), model)
    whole, small = Fitted.load(model), Fitted.load(pruned)
    rows, stages = numbers.rows.inputs, pruned.facts["trees"] // 3
    assert 1 <= stages <= 20
    frame = pd.DataFrame(rows["numeric"], columns=list("abcd"))
    prepared = whole.estimator[:-1].transform(frame)
    staged = list(itertools.islice(final(whole.estimator).staged_predict_proba(prepared), stages))[-1]
    assert np.allclose(small.answer(rows), staged, atol=1e-6)
    exported = numbers.apply(Export(), pruned)
    assert trees_in(exported)[0] == 3 * stages
    assert gap(numbers.session(exported).predict(rows), small.answer(rows)) <= 1e-5


@pytest.mark.parametrize("family", ["random_forest", "decision_tree"])
def test_leaves_are_gone_within_what_may_be_lost(numbers: Table, family: str) -> None:
    model = numbers.parent(Classifier(family=family, arguments=FEW.get(family, {})))
    pruned = numbers.apply(PruneLeaves(max_drop=0.01), model)
    whole, small = (trees_in(numbers.apply(Export(), m)) for m in (model, pruned))
    assert whole[0] == small[0]
    assert small[1] < 0.7 * whole[1]
    assert (pruned.facts["leaves_before"], pruned.facts["leaves"]) == (whole[1], small[1])
    assert pruned.facts["alpha"] > 0
    assert pruned.facts["lost"] <= 0.01


def test_pruning_by_a_strength_is_what_scikit_learn_does_when_it_fits(numbers: Table) -> None:
    model = numbers.parent(Classifier(family="decision_tree"))
    pruned = numbers.apply(PruneLeaves(alpha=0.004), model)
    fitted = numbers.parent(Classifier(family="decision_tree", arguments={"ccp_alpha": 0.004}))
    assert np.array_equal(*(Fitted.load(m).answer(numbers.rows.inputs) for m in (pruned, fitted)))
    untouched = numbers.apply(PruneLeaves(alpha=0.0), model)
    assert untouched.facts["leaves"] == untouched.facts["leaves_before"]


@pytest.mark.parametrize(
    ("technique", "family", "words"),
    [
        (PruneTrees(), "linear", "prune.trees removes trees .* LogisticRegression"),
        (PruneTrees(), "decision_tree", "prune.trees removes trees .* DecisionTreeClassifier"),
        (PruneLeaves(), "gradient_boosting", "use prune.trees for a boosting"),
    ],
)
def test_what_cannot_be_pruned_is_refused(numbers: Table, technique: Any, family: str, words: str) -> None:
    model = numbers.parent(Classifier(family=family, arguments=FEW.get(family, {})))
    with pytest.raises(PluginError, match=words):
        numbers.apply(technique, model)


# fitting anew


def test_growing_towards_a_deadline_gives_the_same_trees(numbers: Table) -> None:
    for family in ("random_forest", "gradient_boosting", "hist_gradient_boosting"):
        model = numbers.parent(Classifier(family=family, arguments=FEW[family] | {"random_state": 3}))
        whole = numbers.apply(Fit(), model)
        sliced = numbers.apply(Fit(), model, deadline=time.monotonic() + 600)
        rows = numbers.rows.inputs
        assert np.allclose(*(Fitted.load(m).answer(rows) for m in (whole, sliced)), atol=1e-6), family


def test_a_fit_gives_up_when_the_minutes_are_spent(numbers: Table) -> None:
    model = numbers.parent(Classifier(family="gradient_boosting", arguments={"n_estimators": 5}))
    training = {"factory": None, "family": "gradient_boosting", "arguments": {"n_estimators": 1000}}
    begin = time.monotonic()
    with pytest.raises(OutOfTimeError, match=r"sklearn\.fit: the round's minutes were spent"):
        numbers.apply(Fit(), model, deadline=begin + 0.3, training=training)
    assert Fitted.load(model).estimator[-1].n_estimators == 5


def test_a_choice_among_families_is_one_setting(numbers: Table) -> None:
    techniques: list[tuple[str, dict[str, Any]]] = [
        ("sklearn.fit", {"family": ["linear", "decision_tree"]}),
        ("sklearn.tune", {"trials": 3}),
        ("prune.trees", {"keep": [0.2, 0.5]}),
        ("sklearn.export", {}),
        ("quantize.static", {}),
    ]
    space = Space(techniques, parent="sklearn")
    assert {p.name: p.options for p in space.parameters} == {
        "train": ("sklearn.fit", "sklearn.tune"),
        "sklearn.fit.family": ("linear", "decision_tree"),
        "shrink": ("none", "prune.trees"),
        "prune.trees.keep": (0.2, 0.5),
        "finish": ("sklearn.export", "sklearn.export > quantize.static"),
    }
    with pytest.raises(SettingsError, match=r"none of .* gives onnx, .* from torch, .* such as export"):
        Space(techniques)  # from the format of networks
    with pytest.raises(SettingsError, match=r"none of .* from sklearn, .* such as sklearn\.export"):
        Space([("finetune", {}), ("export", {}), ("quantize.static", {})], parent="sklearn")


def test_what_was_chosen_and_tuned_stays_until_the_project_asks_for_something_else(numbers: Table) -> None:
    trainer = Classifier(family="random_forest", arguments={"n_estimators": 5})
    asked = {"training": dataclasses.asdict(trainer)}
    model = numbers.parent(trainer)
    chosen = numbers.apply(Fit(family="linear"), model, **asked)
    assert chosen.facts["estimator"] == "LogisticRegression"
    tuned = numbers.apply(Tune(trials=4, folds=2), chosen, **asked)
    again = numbers.apply(Fit(), tuned, **asked)
    strength = tuned.facts["tuned"].get("estimator__C", 1.0)
    assert strength == Fitted.load(again).estimator[-1].C
    other = {"training": dataclasses.asdict(Classifier(family="decision_tree"))}
    assert numbers.apply(Fit(), again, **other).facts["estimator"] == "DecisionTreeClassifier"


def test_arguments_are_those_of_the_family_that_is_taken_where_none_is_named(numbers: Table) -> None:
    trainer = Classifier(arguments={"n_estimators": 3})
    model, asked = numbers.parent(trainer), {"training": dataclasses.asdict(trainer)}
    assert numbers.apply(Fit(family="random_forest"), model, **asked).facts["trees"] == 3
    assert numbers.apply(Fit(family="extra_trees"), model, **asked).facts["trees"] == 100


def test_tuning_finds_what_a_poor_setting_hid(claims: Table) -> None:
    trainer = Classifier(factory="tests.estimators:logistic", arguments={"strength": 1e-4})
    model = claims.parent(trainer)
    ranges = {"estimator__C": {"low": 1e-4, "high": 100.0, "log": True}}
    tuned, again = (
        claims.apply(Tune(trials=6, folds=2, ranges=ranges), model, factory=trainer.factory) for _ in range(2)
    )
    assert tuned.digest == again.digest
    assert tuned.facts["trials"] == 6
    assert tuned.facts["loss"] < tuned.facts["loss_before"] - 0.05
    assert tuned.facts["tuned"]["estimator__C"] == Fitted.load(tuned).estimator[-1].C
    right = [(Fitted.load(m).answer(claims.rows.inputs).argmax(1) == claims.rows.labels).mean() for m in (model, tuned)]
    assert right[1] > right[0]


def test_settings_that_do_not_go_together_end_no_tuning(numbers: Table) -> None:
    model = numbers.parent(Classifier(family="linear"))
    ranges = {"estimator__solver": ["lbfgs", "saga"], "estimator__l1_ratio": [0.0, 1.0]}  # lbfgs knows no l1
    made = numbers.apply(Tune(trials=8, folds=2, ranges=ranges), model)
    assert made.facts["trials"] == 8
    assert 1 <= made.facts["failed"] < 8
    assert "cannot fit the estimator" in made.facts["failed_first"]
    assert made.facts["loss"] <= made.facts["loss_before"]


def test_tuning_takes_the_best_so_far_when_time_runs_out(numbers: Table) -> None:
    model = numbers.parent(Classifier(family="random_forest", arguments={"n_estimators": 10}))
    begin = time.monotonic()
    made = numbers.apply(Tune(trials=10_000, folds=2), model, deadline=begin + 4)
    assert 1 <= made.facts["trials"] < 10_000
    assert made.facts["loss"] <= made.facts["loss_before"]
    with pytest.raises(OutOfTimeError):
        numbers.apply(Tune(trials=3), model, deadline=-math.inf)


def test_rows_of_one_group_and_unknown_parameters_are_told(numbers: Table, tmp_path: Path) -> None:
    rows = numbers.data.rows(Role.TRAIN)
    alike = dataclasses.replace(rows, groups=np.zeros(len(rows), np.uint64))
    one = dataclasses.replace(numbers, data=Data.write(tmp_path / "one", {Role.TRAIN: alike}))
    model = numbers.parent(Classifier(family="linear"))
    with pytest.raises(DataError, match=r"of 1 group\(s\), and sklearn\.tune\.folds is 3"):
        one.apply(Tune(), model)
    with pytest.raises(PluginError, match=r"estimator__c: the estimator has no such parameter.* 'estimator__C'"):
        numbers.apply(Tune(ranges={"estimator__c": [1, 2]}), model)


# text


def test_free_text_is_a_kind_of_column(claims: Table) -> None:
    (note,) = [c for c in claims.schema.columns if c.name == "note"]
    assert (note.dtype, note.levels) == ("text", ())
    assert Schema.model_validate_json(claims.schema.model_dump_json()) == claims.schema


def test_a_network_says_that_it_reads_no_text(claims: Table) -> None:
    trainer = discover.build("trainers", "torch.classifier", {"factory": "trimtab_torch.networks:Mlp"}, "model")
    with pytest.raises(PluginError, match=r"features\.note\.kind is text, .* sklearn\.classifier"):
        trainer.fit(claims.data, claims.job())


def test_a_boosting_that_stops_early_is_fitted_in_one_piece(numbers: Table) -> None:
    arguments = {"max_iter": 300, "early_stopping": True, "n_iter_no_change": 3}
    model = numbers.parent(Classifier(family="hist_gradient_boosting", arguments=arguments))
    again = numbers.apply(Fit(), model, deadline=time.monotonic() + 600)
    boosting = final(Fitted.load(again).estimator)
    assert isinstance(boosting, HistGradientBoostingClassifier)
    assert boosting.n_iter_ < 300
    assert again.facts["trees"] == Fitted.load(model).estimator[-1].n_iter_ * 3
