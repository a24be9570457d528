"""The promises of a registry, kept alike by the one in memory and the one on MLflow; then what MLflow adds."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from trimtab.address import masked
from trimtab.artifact import Model
from trimtab.errors import ArtifactError, InternalError, ServiceError, SettingsError
from trimtab.registry import (
    CHALLENGER,
    CHAMPION,
    CandidateLog,
    DatasetLog,
    MemoryRegistry,
    Registry,
    RoundLog,
    Version,
    digests_of,
)
from trimtab.runtime import Setup
from trimtab.testing import yield_checks
from trimtab_mlflow import MlflowRegistry
from trimtab_mlflow.datasets import HASHED_ROWS, digest_of

ROOT = Path(__file__).parents[1]
FRAME = pd.DataFrame({"image": [[0.0, 1.0]] * 4, "amount": [1.0, 2.0, np.nan, 4.0], "digit": [0, 1, 0, 1]})
ROUND = RoundLog(
    "round-7",
    "round 7",
    {"trimtab.trigger": "moved"},
    {"candidates": "2"},
    (
        DatasetLog("digits train", "train", FRAME, "data/digits/*.parquet", "digit"),
        DatasetLog("digits judge", "judge", FRAME[::-1], "data/digits/*.parquet", "digit"),
    ),
)
TAGS = {"trimtab.recipe": "finetune > quantize.static", "trimtab.parent": "3"}
RESTS_ALONE = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: the migrations take seconds."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def on_mlflow(tmp_path: Path, migrated: Path) -> MlflowRegistry:
    (tmp_path / "store").mkdir()
    shutil.copy(migrated, tmp_path / "store" / "mlflow.db")
    return open_mlflow(tmp_path)


@pytest.fixture(params=["memory", "mlflow"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "memory":
        return MemoryRegistry(tmp_path / "store")
    opened: MlflowRegistry = request.getfixturevalue("on_mlflow")
    return opened


def open_mlflow(tmp_path: Path) -> MlflowRegistry:
    """A registry as a new process would open it."""
    return MlflowRegistry(url=f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}", model="digits", experiment="digits")


def make_model(folder: Path, weight: float = 1.0) -> Model:
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["numeric", "w"], ["probabilities"])],
        "net",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(np.full((3, 2), weight, np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(proto, folder / "model.onnx")
    return Model.at(folder, "onnx")


def candidate(tmp_path: Path, number: int = 1, **changes: Any) -> CandidateLog:
    values: dict[str, Any] = {
        "operation": f"round-7/candidate-{number}",
        "name": f"candidate {number}",
        "tags": TAGS,
        "params": {"finetune.epochs": "2", "prune[0].ratio": "0.5"},
        "metrics": {"quality": 0.9, "latency_ms": 1.5, "needs_rows": float("nan")},
        "model": make_model(tmp_path / f"candidate-{number}", weight=number),
        "example": {"numeric": np.zeros((2, 3), np.float32)},
        "outputs": {"probabilities": np.zeros((2, 2), np.float32)},
    }
    return CandidateLog(**{**values, **changes})


def make_package(tmp_path: Path, number: int = 1) -> Path:
    package = tmp_path / f"package-{number}"
    (package / "parent").mkdir(parents=True, exist_ok=True)
    make_model(package, weight=number)
    (package / "parent" / "model.safetensors").write_bytes(bytes([number]) * 1000)
    (package / "schema.json").write_text(json.dumps({"columns": number}))
    return package


def register(registry: Registry, tmp_path: Path, number: int = 1) -> Version:
    round_id = registry.log_round(ROUND)
    candidate_id = registry.log_candidate(round_id, candidate(tmp_path, number))
    return registry.create_version(
        candidate_id, f"promote-{number}", make_package(tmp_path, number), TAGS, "**promoted** since digits moved"
    )


def stored(tmp_path: Path, name: str) -> Path:
    """The one file of a registered package as it lies in the store."""
    (found,) = [p for p in (tmp_path / "store").rglob(name) if p.parent.name in ("1", "package", "parent")]
    return found


def runs(registry: MlflowRegistry) -> list[Any]:
    client = MlflowClient(registry.url)
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


# What every registry promises.


def test_logging_again_gives_the_same_ids(registry: Registry, tmp_path: Path) -> None:
    registry.ready()
    registry.ready()
    round_id = registry.log_round(ROUND)
    candidate_id = registry.log_candidate(round_id, candidate(tmp_path))
    assert registry.log_round(ROUND) == round_id
    assert registry.log_candidate(round_id, candidate(tmp_path)) == candidate_id
    assert registry.log_candidate(round_id, candidate(tmp_path, 2)) != candidate_id
    registry.close_round(round_id, "promoted", {"trimtab.winner": "1"})
    registry.close_round(round_id, "promoted", {"trimtab.winner": "1"})
    assert registry.log_round(ROUND) == round_id


def test_an_operation_creates_one_version(registry: Registry, tmp_path: Path) -> None:
    assert registry.versions() == []
    first, again, second = register(registry, tmp_path), register(registry, tmp_path), register(registry, tmp_path, 2)
    assert first == again
    assert [v.number for v in registry.versions()] == [first.number, second.number] == [1, 2]
    assert registry.versions() == [first, second]


def test_a_version_carries_its_ancestry_and_digests_alone(registry: Registry, tmp_path: Path) -> None:
    version = register(registry, tmp_path)
    assert version == Version(1, "promote-1", TAGS, digests_of(make_package(tmp_path)))
    assert set(version.digests) == {"model.onnx", "parent/model.safetensors", "schema.json"}
    registry.tag_version(1, {"trimtab.epoch": "4", "trimtab.parent": "2"})
    assert registry.versions()[0].tags == {**TAGS, "trimtab.epoch": "4", "trimtab.parent": "2"}


def test_fetch_brings_every_file_once(registry: Registry, tmp_path: Path) -> None:
    version = register(registry, tmp_path)
    folder = registry.fetch(1, tmp_path / "cache" / "1")
    assert digests_of(folder) == version.digests
    before = (folder / "model.onnx").stat().st_mtime_ns
    assert registry.fetch(1, folder) == folder
    assert (folder / "model.onnx").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b"altered"), lambda p: p.unlink()], ids=["alter", "lose"])
@pytest.mark.parametrize("name", ["schema.json", "model.safetensors"])
def test_a_damaged_store_is_refused(
    registry: Registry, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    register(registry, tmp_path)
    damage(stored(tmp_path, name))
    with pytest.raises(ArtifactError, match=name):
        registry.fetch(1, tmp_path / "cache")


def test_an_unknown_version_is_refused(registry: Registry, tmp_path: Path) -> None:
    register(registry, tmp_path)
    with pytest.raises(ArtifactError, match="version 9"):
        registry.fetch(9, tmp_path / "cache")


def test_an_alias_of_nothing_is_none(registry: Registry) -> None:
    assert registry.alias(CHAMPION) is None
    registry.set_alias(CHAMPION, None)
    assert registry.alias(CHAMPION) is None


@RESTS_ALONE
@given(moves=st.lists(st.tuples(st.sampled_from([CHAMPION, CHALLENGER]), st.sampled_from([None, 1, 2])), max_size=6))
def test_aliases_name_what_was_set_last(
    registry: Registry, tmp_path: Path, moves: list[tuple[str, int | None]]
) -> None:
    for number in (1, 2):
        register(registry, tmp_path, number)
    expected = {CHAMPION: registry.alias(CHAMPION), CHALLENGER: registry.alias(CHALLENGER)}
    for name, number in moves:
        registry.set_alias(name, number)
        expected[name] = number
        assert {n: registry.alias(n) for n in expected} == expected


# What a person sees in MLflow.


def test_the_champion_leads_to_run_round_data_and_rivals(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    register(on_mlflow, tmp_path)
    on_mlflow.set_alias(CHAMPION, 1)
    round_id = on_mlflow.log_round(ROUND)
    on_mlflow.log_candidate(round_id, candidate(tmp_path, 2, model=None, failed=True))
    on_mlflow.close_round(round_id, "promoted", {"trimtab.winner": "1"})

    client = MlflowClient(on_mlflow.url)
    version = client.get_model_version_by_alias("digits", CHAMPION)
    assert version.description == "**promoted** since digits moved"
    run, model = client.get_run(version.run_id), client.get_logged_model(version.source.removeprefix("models:/"))
    assert run.info.run_name == "candidate 1"
    assert model.source_run_id == run.info.run_id == version.run_id
    assert [o.model_id for o in run.outputs.model_outputs] == [model.model_id]
    assert {m.key: m.value for m in model.metrics if m.key != "needs_rows"} == {"quality": 0.9, "latency_ms": 1.5}
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "digits", "version": 1}]
    parent = client.get_parent_run(run.info.run_id)
    assert (parent.info.run_name, parent.info.status) == ("round 7", "FINISHED")
    assert parent.data.tags["trimtab.outcome"] == "promoted"
    for node in (run, parent):
        inputs = {i.dataset.name: i for i in node.inputs.dataset_inputs}
        assert set(inputs) == {"digits train", "digits judge"}
        assert json.loads(inputs["digits train"].dataset.profile)["num_rows"] == len(FRAME)
        assert inputs["digits train"].tags[0].value == "train"
    rivals = {r.info.run_name: r.info.status for r in runs(on_mlflow) if r.data.tags.get("mlflow.parentRunId")}
    assert rivals == {"candidate 1": "FINISHED", "candidate 2": "FAILED"}


def test_a_rounds_reports_lie_in_its_run_also_when_it_is_logged_again(
    on_mlflow: MlflowRegistry, tmp_path: Path
) -> None:
    pages = [tmp_path / f"window-{number}.html" for number in (6, 7)]
    for page in pages:
        page.write_text(f"<p>{page.name}</p>")
    for registry in (on_mlflow, open_mlflow(tmp_path)):
        run = registry.log_round(replace(ROUND, reports=pages))
    client = MlflowClient(on_mlflow.url)
    assert [found.path for found in client.list_artifacts(run, "reports")] == [f"reports/{page.name}" for page in pages]
    assert Path(client.download_artifacts(run, "reports/window-7.html")).read_text() == "<p>window-7.html</p>"


def test_a_failed_round_shows_as_failed(on_mlflow: MlflowRegistry) -> None:
    round_id = on_mlflow.log_round(ROUND)
    assert MlflowClient(on_mlflow.url).get_run(round_id).info.status == "RUNNING"
    on_mlflow.close_round(round_id, "failed", {})
    assert MlflowClient(on_mlflow.url).get_run(round_id).info.status == "FAILED"


def test_parameters_keep_their_values_under_names_that_mlflow_takes(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    many = {f"setting.{n}": str(n) for n in range(150)}
    found = on_mlflow.log_candidate(on_mlflow.log_round(ROUND), candidate(tmp_path, params={**many, "prune[0]": "x"}))
    params = MlflowClient(on_mlflow.url).get_run(found).data.params
    assert params == {**many, "prune_0_": "x"}


def test_a_registered_model_predicts_through_mlflow(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    register(on_mlflow, tmp_path, 2)
    client = MlflowClient(on_mlflow.url)
    source = client.get_model_version("digits", "1").source.removeprefix("models:/")
    loaded = mlflow.pyfunc.load_model(client.get_logged_model(source).artifact_location)
    assert [c.name for c in loaded.metadata.signature.inputs.inputs] == ["numeric"]
    np.testing.assert_allclose(loaded.predict({"numeric": np.ones((1, 3), np.float32)})["probabilities"], [[6.0, 6.0]])


def test_links_hide_the_password() -> None:
    server = MlflowRegistry(url="http://me:secret@ml.example:5000/", model="my digits", experiment="e")
    assert list(server.links().values()) == ["http://me:***@ml.example:5000/#/models/my%20digits"]
    database = MlflowRegistry(url="postgresql://me:secret@db/ml", model="d", experiment="e", artifacts="s3://b")
    assert list(database.links().values()) == ["mlflow ui --backend-store-uri postgresql://me:***@db/ml --port 5000"]


@given(st.text("ABCXYZ0123456789%-_@/#?:", min_size=6))
def test_no_password_is_shown(password: str) -> None:
    assert password not in masked(f"postgresql://me:{password}@host:5432/database")


def test_registering_leaves_mlflows_default_address_alone(
    on_mlflow: MlflowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    register(on_mlflow, tmp_path)
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == "http://elsewhere:5000"


# What is left after a crash.


class KilledError(BaseException):
    """Ends the call as kill -9 would: nothing of ours catches it."""


class Dying:
    """A client whose process dies before the ``fatal``-th write (which is just after the one before it)."""

    WRITES = ("create", "log_", "set_", "finalize", "delete")

    def __init__(self, client: MlflowClient, fatal: int) -> None:
        self.client, self.left = client, fatal

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return self.counted(method) if name.startswith(self.WRITES) else method

    def counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise KilledError
            return method(*args, **kwargs)

        return call


def kill(tmp_path: Path, fatal: int, work: Callable[[MlflowRegistry], object]) -> None:
    """Do ``work`` in what stands for a new process, which does not survive it."""
    registry = open_mlflow(tmp_path)
    registry.__dict__["_client"] = Dying(registry._client, fatal)
    with pytest.raises(KilledError):
        work(registry)


@pytest.mark.parametrize("fatal", range(1, 13))
def test_a_candidate_killed_at_any_write_is_logged_once_and_whole(
    on_mlflow: MlflowRegistry, tmp_path: Path, fatal: int
) -> None:
    def log(registry: MlflowRegistry) -> str:
        return registry.log_candidate(registry.log_round(ROUND), candidate(tmp_path))

    on_mlflow.ready()
    kill(tmp_path, fatal, log)
    client = MlflowClient(on_mlflow.url)
    run = client.get_run(log(on_mlflow))
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert len(runs(on_mlflow)) == 2
    assert (run.info.status, str(model.status)) == ("FINISHED", "READY")
    assert [o.model_id for o in run.outputs.model_outputs] == [model.model_id]
    assert run.data.params == {"finetune.epochs": "2", "prune_0_.ratio": "0.5"}
    assert len(client.get_metric_history(run.info.run_id, "quality")) == 1
    assert {m.key for m in model.metrics} == {"quality", "latency_ms", "needs_rows"}
    assert len(run.inputs.dataset_inputs) == 2


def test_a_candidate_measured_again_after_a_crash_keeps_its_first_numbers(
    on_mlflow: MlflowRegistry, tmp_path: Path
) -> None:
    on_mlflow.ready()
    round_id = on_mlflow.log_round(ROUND)
    kill(tmp_path, 9, lambda registry: registry.log_candidate(round_id, candidate(tmp_path)))
    found = on_mlflow.log_candidate(round_id, candidate(tmp_path, metrics={"quality": 0.8}))
    assert [m.value for m in MlflowClient(on_mlflow.url).get_metric_history(found, "quality")] == [0.9]


@pytest.mark.parametrize("fatal", range(1, 5))
def test_a_version_killed_at_any_write_is_absent_or_whole(
    on_mlflow: MlflowRegistry, tmp_path: Path, fatal: int
) -> None:
    def create(registry: MlflowRegistry) -> Version:
        return registry.create_version(candidate_id, "promote-1", package, TAGS, "")

    package = make_package(tmp_path)
    on_mlflow.ready()
    candidate_id = on_mlflow.log_candidate(on_mlflow.log_round(ROUND), candidate(tmp_path))
    kill(tmp_path, fatal, create)
    assert on_mlflow.versions() == []
    version = create(on_mlflow)
    assert version == Version(1, "promote-1", TAGS, digests_of(package))
    assert on_mlflow.versions() == [version]
    assert len(MlflowClient(on_mlflow.url).search_model_versions("name = 'digits'")) == 1
    assert digests_of(on_mlflow.fetch(1, tmp_path / "cache")) == version.digests


@pytest.mark.parametrize("fatal", range(1, 6))
def test_a_round_killed_at_any_write_is_closed_once(on_mlflow: MlflowRegistry, tmp_path: Path, fatal: int) -> None:
    def work(registry: MlflowRegistry) -> None:
        registry.close_round(registry.log_round(ROUND), "rejected", {"trimtab.reason": "slower"})

    on_mlflow.ready()
    kill(tmp_path, fatal, work)
    work(on_mlflow)
    (run,) = runs(on_mlflow)
    assert (run.info.status, run.data.tags["trimtab.reason"]) == ("FINISHED", "slower")
    assert (run.data.params, len(run.inputs.dataset_inputs)) == ({"candidates": "2"}, 2)


def test_an_incomplete_version_is_neither_listed_nor_fetched(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    register(on_mlflow, tmp_path)
    MlflowClient(on_mlflow.url).delete_model_version_tag("digits", "1", "trimtab.complete")
    assert on_mlflow.versions() == []
    with pytest.raises(ArtifactError, match="incomplete"):
        on_mlflow.fetch(1, tmp_path / "cache")


def test_of_two_versions_of_one_operation_the_first_counts(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    first = register(on_mlflow, tmp_path)
    client = MlflowClient(on_mlflow.url)
    twin = client.get_model_version("digits", "1")
    location = client.get_logged_model(twin.source.removeprefix("models:/")).artifact_location
    client.create_model_version("digits", location, twin.run_id, twin.tags)
    assert on_mlflow.versions() == [first]
    assert register(on_mlflow, tmp_path) == first


def test_a_damaged_copy_is_fetched_again(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    version = register(on_mlflow, tmp_path)
    folder = on_mlflow.fetch(1, tmp_path / "cache")
    (folder / "model.onnx").write_bytes(b"cut")
    assert digests_of(on_mlflow.fetch(1, folder)) == version.digests
    (folder / "schema.json").unlink()
    assert digests_of(on_mlflow.fetch(1, folder)) == version.digests


def test_a_damaged_store_leaves_nothing_behind(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    register(on_mlflow, tmp_path)
    shutil.rmtree(stored(tmp_path, "schema.json").parent)
    with pytest.raises(ArtifactError, match="restore the artifact store"):
        on_mlflow.fetch(1, tmp_path / "cache" / "1")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_candidate_without_a_model_makes_no_version(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    candidate_id = on_mlflow.log_candidate(on_mlflow.log_round(ROUND), candidate(tmp_path, model=None))
    with pytest.raises(ArtifactError, match="no completely logged model"):
        on_mlflow.create_version(candidate_id, "promote-1", make_package(tmp_path), TAGS, "")
    assert on_mlflow.versions() == []


def test_a_candidate_makes_no_second_version_with_other_files(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    register(on_mlflow, tmp_path)
    candidate_id = on_mlflow.log_candidate(on_mlflow.log_round(ROUND), candidate(tmp_path))
    with pytest.raises(ArtifactError, match="already version 1 with other files"):
        on_mlflow.create_version(candidate_id, "promote-other", make_package(tmp_path, 2), TAGS, "")
    again = on_mlflow.create_version(candidate_id, "promote-same", make_package(tmp_path), TAGS, "")
    assert again.digests == on_mlflow.versions()[0].digests


def test_a_candidate_without_its_file_is_refused(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    log = candidate(tmp_path)
    (tmp_path / "candidate-1" / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"candidate 1.*no model\.onnx"):
        on_mlflow.log_candidate(on_mlflow.log_round(ROUND), log)


# A server that does not answer, and addresses that cannot.


@contextmanager
def answering(status: Callable[[str], int]) -> Iterator[str]:
    """Serve ``status`` of each path with an empty body, and give the address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status(self.path))
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815  (http.server's names)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def is_down(url: str, seconds: float = 10) -> str:
    start = time.monotonic()
    with pytest.raises(ServiceError, match=r"registry\.url=") as caught:
        MlflowRegistry(url=url, model="digits", experiment="digits").ready()
    assert time.monotonic() - start < seconds
    assert url in str(caught.value)
    return str(caught.value)


def test_a_closed_port_is_named_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "correct registry.url" in is_down(f"http://127.0.0.1:{taken.getsockname()[1]}")


def test_a_silent_server_is_given_up_within_ten_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        is_down(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_server_in_trouble_is_named() -> None:
    with answering(lambda path: 500) as url:
        assert "500" in is_down(url)


@pytest.mark.parametrize("status", [500, 503, 403, 429])
def test_every_method_says_that_the_server_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(lambda path: 200 if path == "/health" else status) as url:
        registry = MlflowRegistry(url=url, model="digits", experiment="digits")
        calls: list[Callable[[], object]] = [
            registry.ready,
            lambda: registry.log_round(ROUND),
            lambda: registry.log_candidate("r", candidate(tmp_path)),
            lambda: registry.close_round("r", "failed", {}),
            lambda: registry.create_version("c", "o", make_package(tmp_path), {}, ""),
            registry.versions,
            lambda: registry.fetch(1, tmp_path / "cache"),
            lambda: registry.alias(CHAMPION),
            lambda: registry.set_alias(CHAMPION, 1),
            lambda: registry.tag_version(1, {"a": "b"}),
        ]
        for call in calls:
            with pytest.raises(ServiceError, match=r"registry\.url="):
                call()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    is_down(f"sqlite:///{tmp_path / 'file' / 'below' / 'mlflow.db'}")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database " * 1000)
    assert "not a database" in is_down(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_what_mlflow_refuses_is_ours_to_mend(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    register(on_mlflow, tmp_path)
    with pytest.raises(InternalError, match="refused"):
        on_mlflow.set_alias("v1", 1)


def test_an_alias_on_an_unknown_version_is_refused(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    register(on_mlflow, tmp_path)
    with pytest.raises(ArtifactError, match="version=9"):
        on_mlflow.set_alias(CHAMPION, 9)
    with pytest.raises(ArtifactError, match="version=9"):
        on_mlflow.tag_version(9, {"a": "b"})


@pytest.mark.parametrize(
    "url", ["mlruns", "file:///mlruns", "sqlite://", "sqlite:///", "http://", "databricks", "s3://b"]
)
def test_an_address_of_no_kind_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match=r"registry\.url must be .* sqlite:///trimtab\.db"):
        MlflowRegistry(url=url, model="digits", experiment="digits")


@pytest.mark.parametrize("setting", ["model", "experiment"])
@pytest.mark.parametrize("name", ["", "a/b", "a:b", "it's", " a"])
def test_a_name_that_mlflow_cannot_hold_is_a_settings_error(setting: str, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"registry\.{setting} must be"):
        MlflowRegistry(**{"url": "sqlite:///a.db", "model": "digits", "experiment": "digits", setting: name})


def test_a_database_server_needs_a_place_for_files() -> None:
    with pytest.raises(SettingsError, match=r"registry\.artifacts is needed"):
        MlflowRegistry(url="postgresql://me@host/ml", model="digits", experiment="digits")


def test_a_deleted_experiment_is_named(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    on_mlflow.ready()
    client = MlflowClient(on_mlflow.url)
    client.delete_experiment(client.get_experiment_by_name("digits").experiment_id)
    with pytest.raises(SettingsError, match="mlflow experiments restore"):
        open_mlflow(tmp_path).ready()


def test_files_go_where_the_settings_say(on_mlflow: MlflowRegistry, tmp_path: Path) -> None:
    elsewhere = MlflowRegistry(
        url=on_mlflow.url, model="digits", experiment="other", artifacts=str(tmp_path / "elsewhere")
    )
    register(elsewhere, tmp_path)
    assert len(list((tmp_path / "elsewhere").rglob("package/model.onnx"))) == 1


def test_two_processes_start_at_once_on_a_new_file_and_say_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from trimtab_mlflow import MlflowRegistry; "
        "MlflowRegistry(url=sys.argv[1], model='digits', experiment='digits').ready()"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "plugins"))
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/new/mlflow.db"]
    both = [
        subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    assert [(p.communicate(timeout=120)[0], p.returncode) for p in both] == [("", 0), ("", 0)]
    client = MlflowClient(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert [m.name for m in client.search_registered_models()] == ["digits"]


# How data sets are told apart.


def test_the_digest_follows_every_column() -> None:
    changed = [
        FRAME.assign(amount=[1.0, 2.0, np.nan, 5.0]),
        FRAME.assign(image=[[0.0, 1.0]] * 3 + [[0.0, 2.0]]),
        FRAME.assign(digit=[0, 1, 0, 0]),
        FRAME.rename(columns={"digit": "label"}),
        FRAME.head(3),
    ]
    assert len({digest_of(f) for f in [FRAME, *changed]}) == 1 + len(changed)
    assert digest_of(FRAME.reset_index(drop=True)) == digest_of(FRAME.set_index(FRAME.index + 5))


def test_a_tensor_has_one_digest_however_it_is_held(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    held = pd.DataFrame({"image": list(values)})
    nested = pd.DataFrame({"image": [v.tolist() for v in values]})
    nested.to_parquet(tmp_path / "nested.parquet")
    assert digest_of(held) == digest_of(nested) == digest_of(pd.read_parquet(tmp_path / "nested.parquet"))


def test_the_digest_of_many_rows_reads_the_last_one() -> None:
    frame = pd.DataFrame({"a": np.zeros(HASHED_ROWS * 3)})
    assert digest_of(frame) != digest_of(frame.assign(a=np.r_[frame["a"][:-1], 1.0]))


def test_every_registry_keeps_the_public_contract(registry: Registry) -> None:
    for check in yield_checks("registries", registry):
        check()


def test_a_model_that_is_no_onnx_file_is_loaded_by_mlflow_through_its_runtime(
    on_mlflow: MlflowRegistry, tmp_path: Path
) -> None:
    import trimtab_openvino  # noqa: F401, I001 (before OpenVINO itself, to keep it from asking the network)
    import openvino

    folder = tmp_path / "ir"
    folder.mkdir()
    openvino.save_model(
        openvino.convert_model(make_model(tmp_path / "onnx", weight=2.0).folder / "model.onnx"), folder / "model.xml"
    )
    log = candidate(tmp_path, model=Model.at(folder, "openvino"), setup=Setup("openvino"))
    on_mlflow.log_candidate(on_mlflow.log_round(ROUND), log)
    client = MlflowClient(on_mlflow.url)
    (found,) = client.search_logged_models([e.experiment_id for e in client.search_experiments()])
    mlflow.set_tracking_uri(on_mlflow.url)
    loaded = mlflow.pyfunc.load_model(found.model_uri)
    predicted = loaded.predict({"numeric": np.ones((2, 3), np.float32)})
    np.testing.assert_allclose(predicted["probabilities"], 6.0, atol=1e-5)
    needed = Path(mlflow.pyfunc.get_model_dependencies(found.model_uri)).read_text()
    assert f"trimtab[openvino]=={version('trimtab')}" in needed.splitlines()
