"""Compose file, image and manifests: by their schemas, and that all they name is here; they are not run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from tests.servers import CONFIGURATION, ROOT
from trimtab.settings import Project

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
SCHEMAS = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
BASE = DEPLOY / "kubernetes" / "base"
OVERLAY = DEPLOY / "kubernetes" / "overlays" / "example"
OURS = "trimtab:0.1.0"
IMAGE = re.compile(r"^[\w./-]+:v?\d+\.\d+(\.\d+)?(-[\w.]+)?$")


def manifests(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.yaml")):
        yield from (d for d in yaml.safe_load_all(file.read_text()) if d["kind"] != "Kustomization")


OBJECTS = [*manifests(BASE), yaml.safe_load((OVERLAY / "namespace.yaml").read_text())]
WORKLOADS = {o["metadata"]["name"]: o for o in OBJECTS if o["kind"] in ("Deployment", "StatefulSet")}


def pod(name: str) -> dict[str, Any]:
    return dict(WORKLOADS[name]["spec"]["template"]["spec"])


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    return dict(only)


def called(name: str) -> list[str]:
    """The words that start a container of the manifests."""
    return [*container(name).get("command", ()), *container(name).get("args", ())]


def test_the_compose_file_is_one_by_the_specification() -> None:
    jsonschema.validate(COMPOSE, json.loads((SCHEMAS / "compose-spec.json").read_text()))
    broken = {**COMPOSE, "services": {**SERVICES, "exporter": {**SERVICES["exporter"], "comand": []}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json.loads((SCHEMAS / "compose-spec.json").read_text()))


@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda o: f"{o['kind']}:{o['metadata']['name']}")
def test_a_manifest_is_one_by_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    wrong = {**manifest, "spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_stack_is_whole() -> None:
    assert (
        set(SERVICES)
        == set(WORKLOADS)
        == {*("postgres", "mlflow", "prefect", "worker", "exporter", "hook", "prometheus", "alertmanager", "grafana")}
    )


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_named_exactly_and_are_the_same_in_both(name: str) -> None:
    image = SERVICES[name]["image"]
    assert IMAGE.match(image), image
    assert container(name)["image"] == image


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_but_on_the_loopback(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port), port
    assert "network_mode" not in SERVICES[name]
    assert not SERVICES[name].get("privileged")
    assert all(o["spec"].get("type", "ClusterIP") == "ClusterIP" for o in OBJECTS if o["kind"] == "Service")


@pytest.mark.parametrize("name", [n for n in SERVICES if n != "worker"])
def test_health_is_asked_for_at_the_port_that_is_served(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    (port,) = container(name)["ports"]
    service = next(o for o in OBJECTS if o["kind"] == "Service" and o["metadata"]["name"] == name)
    assert [p["port"] for p in service["spec"]["ports"]] == [port["containerPort"]]
    if name != "postgres":
        assert SERVICES[name]["ports"] == [f"127.0.0.1:{port['containerPort']}:{port['containerPort']}"]
        assert str(port["containerPort"]) in json.dumps(SERVICES[name]["healthcheck"]["test"])
    assert {"readinessProbe", "livenessProbe"} <= set(container(name))


@pytest.mark.parametrize("name", [n for n in SERVICES if SERVICES[n]["image"] == OURS])
def test_both_start_ours_with_the_same_words(name: str) -> None:
    assert called(name) == SERVICES[name]["command"]
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", [n for n in SERVICES if SERVICES[n]["image"] == OURS])
def test_the_command_and_each_option_of_it_exist(name: str) -> None:
    words = SERVICES[name]["command"]
    commands = {"mlflow": 2, "prefect": 3, "trimtab": 2}[words[0]]
    environment = {
        **os.environ,
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    asked = [str(Path(sys.executable).with_name(words[0])), *words[1:commands], "--help"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True, env=environment).stdout
    for option in (w.partition("=")[0] for w in words[commands:] if w.startswith("--")):
        assert re.search(rf"{option}\b", told), f"{' '.join(words[:commands])} has no {option}"


def test_what_configures_trimtab_by_the_environment_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    of_compose = {**SERVICES["worker"]["environment"], **SERVICES["exporter"]["environment"]}
    assert SERVICES["worker"]["environment"] == SERVICES["exporter"]["environment"]
    assert SERVICES["hook"]["environment"] == SERVICES["exporter"]["environment"]
    for name in ("worker", "exporter", "hook"):
        given = {e["name"]: e.get("value") for e in container(name)["env"]}
        assert given.items() >= of_compose.items()
    monkeypatch.setenv("TRIMTAB_REGISTRY__URL", of_compose["TRIMTAB_REGISTRY__URL"])
    project = Project.load(OVERLAY / "churn.yaml")
    assert project.registry_url == "http://mlflow:5000"
    assert project.folder == Path("/srv/trimtab/.trimtab/churn")
    assert "prefect:4200/api" in of_compose["PREFECT_API_URL"]


def test_prometheus_asks_the_names_and_ports_that_the_services_have() -> None:
    for file in ("exporter", "alertmanager"):
        (group,) = yaml.safe_load((CONFIGURATION / "services" / f"{file}.yml").read_text())
        (target,) = group["targets"]
        name, _, port = target.partition(":")
        assert name == file
        assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert (CONFIGURATION / "targets" / f"{file}.yml").is_file()
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_here_or_is_named(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.partition(":")[0]
        if source.startswith("./"):
            assert (DEPLOY / source).exists(), source
        elif not source.startswith("../"):
            assert source in COMPOSE["volumes"], source
    for secret in SERVICES[name].get("secrets", ()):
        assert (secret if isinstance(secret, str) else secret["source"]) in COMPOSE["secrets"]


def test_secrets_are_files_that_are_in_no_commit() -> None:
    files = [s["file"] for s in COMPOSE["secrets"].values()]
    files += [f for s in SERVICES.values() for f in s.get("env_file", ())]
    assert files
    assert all(f.startswith("./secrets/") for f in files)
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert not [o for o in OBJECTS if o["kind"] == "Secret"]
    for service in SERVICES.values():
        told = {k: v for k, v in service.get("environment", {}).items() if re.search("PASSWORD|TOKEN|SECRET", k)}
        assert all(k.endswith(("_FILE", "__FILE")) for k in told)
    readme = (DEPLOY / "README.md").read_text()
    for file in files:
        assert f"deploy/{file.removeprefix('./')}" in readme, file
    keys = set(re.findall(r"(?:key: |run/secrets/)(\w+)(?=[,}])", json.dumps(OBJECTS).replace('"', "")))
    assert keys >= {"postgres_password", "grafana_password", "webhook_token", "hook_token"}
    assert all(f"--from-literal={k}=" in readme or f"--from-file={k}=" in readme for k in keys if "." not in k)


def test_what_the_manifests_refer_to_is_made() -> None:
    made: dict[str, set[str]] = {}
    for folder in (CONFIGURATION, DEPLOY / "grafana", DEPLOY / "postgres", OVERLAY):
        told = yaml.safe_load((folder / "kustomization.yaml").read_text())
        for generator in told["configMapGenerator"]:
            assert all((folder / file).is_file() for file in generator["files"])
            made[generator["name"]] = {Path(file).name for file in generator["files"]}
    claims = {o["metadata"]["name"] for o in OBJECTS if o["kind"] == "PersistentVolumeClaim"}
    for name in WORKLOADS:
        volumes = {v["name"]: v for v in pod(name).get("volumes", ())}
        assert {m["name"] for m in container(name).get("volumeMounts", ())} == set(volumes)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            for source in [volume, *volume.get("projected", {}).get("sources", ())]:
                if "configMap" in source:
                    items = {i["key"] for i in source["configMap"].get("items", ())}
                    assert items <= made[source["configMap"]["name"]]
    base = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert all((BASE / resource).exists() for resource in base["resources"])
    assert {r for r in base["resources"] if "/" not in r} == {p.name for p in BASE.glob("*.yaml")} - {
        "kustomization.yaml"
    }


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_may_do_no_more_than_it_must(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["automountServiceAccountToken"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container(name)["resources"]["limits"]["memory"]


def test_the_image_is_slim_and_not_run_by_root_and_keeps_to_the_constraints(tmp_path: Path) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    (tmp_path / "Dockerfile").write_text(text)
    parsed = DockerfileParser(str(tmp_path))
    assert len(parsed.parent_images) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", image) for image in parsed.parent_images)
    steps = [(step["instruction"], step["value"]) for step in parsed.structure]
    last = max(at for at, (word, _) in enumerate(steps) if word == "FROM")
    user = [value for word, value in steps[last:] if word == "USER"]
    assert user == ["10001"]
    assert str(pod("worker")["securityContext"]["runAsUser"]) == user[-1]
    installs = [value for word, value in steps if word == "RUN" and "pip install" in value]
    assert installs
    assert all("-c constraints.txt" in value for value in installs)
    copied = [v.split()[:-1] for w, v in steps if w == "COPY" and not v.startswith("--from")]
    sources = {source for group in copied for source in group}
    assert all((ROOT / source).exists() for source in sources)
    assert {f"!{source}" for source in sources} == {
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert SERVICES["worker"]["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
