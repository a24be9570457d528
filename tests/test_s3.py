"""A round whose models lie in S3: fetched with their digests, refused when altered, never given up when it is away."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from tests import small
from trimtab import approval, champion, first
from trimtab.artifact import verify
from trimtab.errors import ArtifactError, PluginError, ServiceError
from trimtab.parts import Parts, assemble
from trimtab.round import optimize, request_by_hand
from trimtab.runtime import CHAMPION
from trimtab.settings import Project
from trimtab_mlflow.artifacts import StoredArtifacts

pytestmark = pytest.mark.usefixtures("lock_of_its_own")
BUCKET = "models"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    """A server that answers as S3 does, named by the environment alone."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "s3cret"}
    for name, value in {**told, "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    S3FileSystem.clear_instance_cache()  # another test's server is kept by it
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield server
    server.stop()


def keys() -> list[str]:
    return [found["Key"] for found in boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_a_champion_in_s3_is_the_one_that_was_registered_or_none(tmp_path: Path, server: ThreadedMotoServer) -> None:
    config = small.project(
        tmp_path,
        registry={"url": f"sqlite:///{tmp_path}/mlflow.db", "artifacts": f"s3://{BUCKET}/small"},
        journal={"url": f"sqlite:///{tmp_path}/journal.db"},
        model={"factory": "trimtab_torch.networks:Mlp", "arguments": {"hidden": [256, 256]}, "epochs": 8},
        optimize={"techniques": ["export", "quantize.static"], "finalists": 1},
        gate={"max_quality_drop": 0.2, "max_total_drop": 0.2, "max_slowdown": 99.0, "confidence": 0.6},
        promotion="manual",
    )

    def machine(name: str) -> Parts:
        """Open the project where no file of it is yet."""
        return assemble(Project.load(config, [f"home={tmp_path / name}"]))

    trains = machine("trains")
    first.begin(trains)
    done = optimize(trains, request_by_hand(trains, "smaller"))
    assert done.outcome == "proposed", done.detail
    assert all(key.startswith("small/") for key in keys())
    assert not list(tmp_path.rglob("artifacts"))
    proposed = next(v for v in trains.registry.versions() if v.number == 2)
    client = MlflowClient(trains.project.registry_url)
    source = client.get_model_version("small", "2").source.removeprefix("models:/")
    (key,) = [k for k in keys() if source in k and k.endswith("/package/model/model.onnx")]
    # half of the file
    object = boto3.resource("s3").Object(BUCKET, key)
    whole: bytes = object.get()["Body"].read()
    object.put(Body=whole[: len(whole) // 2])
    approves = machine("approves")
    with pytest.raises(ArtifactError, match=r"model/model\.onnx in .* the file was truncated or altered"):
        approval.approve(approves, "ada", "agreed")
    assert approves.registry.alias(CHAMPION) == 1
    assert [p.version for p in approves.journal.promotions()] == [1]
    # whole again
    object.put(Body=whole)
    assert approval.approve(machine("approves"), "ada", "agreed").outcome == "promoted"
    serving = champion.reconcile(machine("serves"))
    assert serving is not None
    assert (serving.version, serving.package) == (2, tmp_path / "serves" / "versions" / "2")
    verify(serving.package, proposed.digests)
    # gone: the one before serves; away: nobody is replaced for that
    object.delete()
    fallen = champion.reconcile(machine("follows"))
    assert fallen is not None
    assert fallen.version == 1
    server.stop()
    late = machine("comes late")
    with pytest.raises(ServiceError, match=rf"the store at s3://{BUCKET}/small/\S* failed"):
        champion.reconcile(late)
    assert [p.version for p in late.journal.promotions()] == [1, 2, 1]


def test_what_is_stored_is_listed_fetched_and_removed(tmp_path: Path, server: ThreadedMotoServer) -> None:
    stored = StoredArtifacts(f"s3://{BUCKET}/runs/1")
    (tmp_path / "out" / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt"):
        (tmp_path / "out" / name).write_text(name)
    stored.log_artifacts(str(tmp_path / "out"), "package")
    assert listed(stored, "package") == [("package/a.txt", False), ("package/deep", True)]
    assert listed(stored, None) == [("package", True)]
    assert listed(stored, "package/a.txt") == listed(stored, "none") == []
    assert stored.download_artifacts("package", str(tmp_path / "in")) == str(tmp_path / "in" / "package")
    assert (tmp_path / "in" / "package" / "deep" / "b.txt").read_text() == "deep/b.txt"
    stored.delete_artifacts("package/deep")
    assert [key for key in keys() if key.startswith("runs/1/")] == ["runs/1/package/a.txt"]
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        stored.download_artifacts("package/deep", str(tmp_path / "in"))
    with pytest.raises(ServiceError, match="the store at s3://no-such-bucket/x failed"):
        StoredArtifacts("s3://no-such-bucket/x").log_artifacts(str(tmp_path / "out"))


def listed(stored: StoredArtifacts, path: str | None) -> list[Any]:
    return [(found.path, found.is_dir) for found in stored.list_artifacts(path)]


def test_a_store_whose_library_is_missing_is_named_with_what_to_install() -> None:
    with pytest.raises(PluginError, match=r"registry\.artifacts adl://me:\*\*\*@host/x: .*pip install"):
        StoredArtifacts("adl://me:s3cret@host/x")
