"""The rules and alerts that trimtab ships: what promtool and amtool say, and that each is tried and told of."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import CONFIGURATION, ROOT, SERVERS
from trimtab import cli

ALERTS = yaml.safe_load((CONFIGURATION / "trimtab.alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES]
CASES = yaml.safe_load((CONFIGURATION / "trimtab.tests.yml").read_text())["tests"]
PAGE = (ROOT / "docs" / "howto" / "alerts.md").read_text()
ASKED_FOR = {
    *("DriftConfirmed", "ModelWorse", "DataBroken", "LabelsOverdue", "CheckOverdue", "RoundFailed", "Promotion"),
    *("Rollback", "RegistryDown", "ChampionMissing", "BudgetSpent", "ExporterAbsent"),
}


def promtool(*arguments: str, cwd: Path = CONFIGURATION) -> subprocess.CompletedProcess[str]:
    command = [str(SERVERS["prometheus"].find("promtool")), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_there_is_an_alert_for_each_thing_that_somebody_must_know() -> None:
    assert {f"Trimtab{name}" for name in ASKED_FOR} <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_says_how_bad_it_is_what_it_means_and_the_way_out(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    said = rule["annotations"]
    assert "{{ $labels.project }}" in said["summary"] or rule["alert"] == "TrimtabExporterAbsent"
    assert len(said["description"]) > 80
    page, _, anchor = said["runbook"].partition("#")
    assert ROOT / page == ROOT / "docs" / "howto" / "alerts.md"
    assert anchor == rule["alert"].lower()
    assert re.search(rf"^### {rule['alert']}$", PAGE, re.MULTILINE)


def test_the_page_has_no_alert_that_there_is_not() -> None:
    assert re.findall(r"^### (Trimtab\w+)$", PAGE, re.MULTILINE) == NAMES


def test_the_commands_that_alerts_and_their_page_name_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    known = set(re.findall(r"^\W*([a-z]+) ", capsys.readouterr().out, re.MULTILINE))
    named = set(re.findall(r"`trimtab ([a-z]+)", " ".join(r["annotations"]["description"] for r in RULES) + PAGE))
    assert {"watch", "rollback", "release"} <= named
    assert named <= known


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not_yet(name: str) -> None:
    checks = [c for case in CASES for c in case["promql_expr_test"] if f'"{name}"' in c["expr"]]
    assert any(c["exp_samples"] for c in checks)
    assert any(not c["exp_samples"] for c in checks)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_speaks_only_of_labels_that_it_has_when_it_fires(rule: dict[str, Any]) -> None:
    checks = [c for case in CASES for c in case["promql_expr_test"] if f'"{rule["alert"]}"' in c["expr"]]
    fired = [set(re.findall(r"(\w+)=", s["labels"])) for c in checks for s in c["exp_samples"]]
    spoken = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert all(spoken <= labels for labels in fired)


@pytest.mark.servers("prometheus")
def test_promtool_finds_no_fault_and_every_case_comes_out() -> None:
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "trimtab.tests.yml"]):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.servers("prometheus")
@pytest.mark.parametrize("change", [lambda e: f"({e}) and on () vector(0) > 1", lambda e: f"({e}) or vector(1)"])
@pytest.mark.parametrize("name", NAMES)
def test_the_cases_would_tell_an_alert_that_never_fires_or_always(
    name: str, change: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "trimtab.rules.yml").write_text((CONFIGURATION / "trimtab.rules.yml").read_text())
    whole = yaml.safe_load((CONFIGURATION / "trimtab.tests.yml").read_text())
    mine = [case for case in CASES if case["name"].startswith(f"{name}:")]
    (tmp_path / "trimtab.tests.yml").write_text(yaml.safe_dump({**whole, "tests": mine}))
    rules = [{**r, "expr": change(r["expr"])} for r in RULES if r["alert"] == name]
    (tmp_path / "trimtab.alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = promtool("test", "rules", "trimtab.tests.yml", cwd=tmp_path)
    assert done.returncode != 0
    assert name in done.stdout + done.stderr


@pytest.mark.servers("alertmanager")
def test_alertmanager_takes_its_configuration_and_sends_what_somebody_must_do_something_about() -> None:
    amtool = str(SERVERS["alertmanager"].find("amtool"))
    file = str(CONFIGURATION / "alertmanager.yml")
    checked = subprocess.run([amtool, "check-config", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for labels, receiver in (
        ("severity=critical alertname=A", "webhook"),
        ("severity=warning alertname=A", "webhook"),
        ("severity=info alertname=A", "nobody"),
        ("severity=warning alertname=TrimtabModelWorse", "rounds,webhook"),
        ("severity=warning alertname=A trimtab_round=true", "rounds,webhook"),
    ):
        route = [amtool, "config", "routes", "test", f"--config.file={file}", *labels.split()]
        assert subprocess.run(route, capture_output=True, text=True, check=True).stdout.strip() == receiver


def test_what_must_be_filled_in_is_marked_and_no_secret_is_kept() -> None:
    told = yaml.safe_load((CONFIGURATION / "alertmanager.yml").read_text())
    hooks = [hook for receiver in told["receivers"] for hook in receiver.get("webhook_configs", ())]
    assert [h["url"] for h in hooks] == ["http://hook:9465/alerts", "https://webhook.invalid/REPLACE-ME"]
    assert all({*h["http_config"]["authorization"]} == {"type", "credentials_file"} for h in hooks)


WITHOUT = """
import pytest
from tests import servers
servers.SERVERS["nothing"] = servers.Server(("no-such-program",), "apt-get install nothing")
pytest_plugins = ["tests.conftest"]
"""


@pytest.mark.parametrize(("required", "outcome"), [("", "1 skipped"), ("servers", "1 error"), ("other", "1 skipped")])
def test_a_test_without_its_server_is_skipped_with_the_reason_or_fails_where_servers_are_required(
    required: str, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text(WITHOUT)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.servers('nothing')\ndef test_it(): assert False\n"
    )
    environment = {**os.environ, "TRIMTAB_REQUIRE": required, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "pytest", "-rsE", "-p", "no:cacheprovider", str(tmp_path), "-c", os.devnull]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "needs nothing (no-such-program not found): apt-get install nothing" in done.stdout
