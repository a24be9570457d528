"""Dashboards, rules and console pages against a real Prometheus that scrapes a real exporter after a real round."""

import json
import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests import fakes, shelf
from tests.browser import Browser, chromium
from tests.servers import CONFIGURATION, ROOT, Prometheus, get, prometheus, until
from trimtab import loop
from trimtab.settings import Project
from trimtab_prometheus.exporter import exposed
from trimtab_prometheus.metrics import METRICS

DASHBOARD = runpy.run_path(str(ROOT / "deploy" / "grafana" / "dashboard.py"))
PANELS = list(DASHBOARD["panels"]())
FILES = ("trimtab.rules.yml", "trimtab.alerts.yml")
RULES = [
    rule for file in FILES for g in yaml.safe_load((CONFIGURATION / file).read_text())["groups"] for rule in g["rules"]
]
ABSENT_AFTER_A_SOUND_ROUND = {"trimtab_budget_seconds"}
"""Metrics of the exporter that the two projects below have nothing to say of."""


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shelf.installed(tmp_path_factory.mktemp("site")):
        yield


@dataclass
class Scene:
    """A Prometheus, and what it scrapes: a project whose round won, and one of windows of a day in the past."""

    server: Prometheus
    worlds: dict[str, fakes.World]


def by_rows(home: Path) -> fakes.World:
    quiet = [fakes.quiet(rows, seed) for rows, seed in ((400, 0), (200, 1), (200, 2))]
    stream = fakes.stream("dashboards", *quiet, *(fakes.moved(200, seed) for seed in (3, 4)))
    budget = {"confirm": "2 of 2", "cooldown": 1, "budget": {"rounds": 4}}
    return shelf.world(home / "rows", stream, name="by-rows", trigger=budget)


def by_days(home: Path) -> fakes.World:
    home.mkdir(exist_ok=True)
    days = [fakes.quiet(400, 10), *(fakes.quiet(200, seed) for seed in (11, 12))]
    rows = pd.concat(
        [f.assign(at=pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(days=n)) for n, f in enumerate(days)]
    )
    rows.to_parquet(home / "days.parquet")
    source = {"kind": "parquet", "path": str(home / "days.parquet"), "timestamp": "at", "label": "y", "id": "id"}
    return shelf.world(
        home / "days", "any", name="by-days", source=source, window={"every": "1d", "start": "2026-01-02"}
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("scene")
    worlds = {"by-rows": by_rows(home), "by-days": by_days(home)}
    for world in worlds.values():
        list(loop.watch(world.process(), replay=True))
    projects = [Project.model_validate(fakes.settings(w.home, w.stream, **w.changes)) for w in worlds.values()]
    with exposed(projects, "127.0.0.1", 0) as address, prometheus(home, address.split("/")[2]) as server:
        last = "count(project_limit:trimtab_budget_spent:ratio) and count(project_answer:trimtab_monitors:count)"
        until(lambda: server.query(last), 60, lambda: (home / "prometheus.log").read_text())
        yield Scene(server, worlds)


def filled(expression: str) -> str:
    """An expression of a panel with the dashboard's variable filled in, as Grafana does for all projects."""
    return expression.replace("$project", ".*")


def test_the_dashboard_is_what_its_file_makes() -> None:
    made, kept = DASHBOARD["render"](), (ROOT / "deploy" / "grafana" / "trimtab.json").read_text()
    assert made == kept, "run python deploy/grafana/dashboard.py"
    board = json.loads(kept)
    drawn = [p for p in board["panels"] if p["type"] != "row"]
    assert [p["title"] for p in drawn] == [p.title for p in PANELS]
    assert all(p["description"] and p["targets"] for p in drawn)
    assert {p["datasource"]["uid"] for p in drawn} == {"${source}"}
    assert {v["name"] for v in board["templating"]["list"]} == {"source", "project"}


def test_what_dashboards_rules_and_pages_ask_for_exists() -> None:
    known = {m.exposed for m in METRICS} | {r["record"] for r in RULES if "record" in r} | {"trimtab_build_info"}
    asked = [q.expr for p in PANELS for q in p.queries] + [r["expr"] for r in RULES]
    asked += [page.read_text() for page in (CONFIGURATION / "consoles").iterdir()]
    named = {name for text in asked for name in re.findall(r"(?:\w+:)?trimtab_\w+(?::\w+)?", text)}
    assert named <= known


@pytest.mark.servers("prometheus")
def test_every_metric_is_stored_but_those_of_which_there_is_nothing_to_say(scene: Scene) -> None:
    silent = {m.exposed for m in METRICS if not scene.server.query(m.exposed)}
    assert silent == ABSENT_AFTER_A_SOUND_ROUND


@pytest.mark.servers("prometheus")
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_every_panel_has_what_to_show_after_a_round(scene: Scene, panel: Any) -> None:
    for query in panel.queries:
        found = scene.server.query(filled(query.expr))
        assert found or panel.may_be_empty, query.expr
        for name in re.findall(r"{{(\w+)}}", query.legend):
            assert all(name in sample["metric"] for sample in found), query.legend


@pytest.mark.servers("prometheus")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record", rule.get("alert")))
def test_every_rule_is_evaluated_without_an_error(scene: Scene, rule: dict[str, Any]) -> None:
    scene.server.query(rule["expr"])
    if "record" in rule and rule.get("labels") != {"limit": "minutes"}:
        assert scene.server.query(rule["record"])
    told = [
        r for g in scene.server.ask("rules")["groups"] for r in g["rules"] if r["query"].split() == rule["expr"].split()
    ]
    assert all(r["health"] == "ok" and not r.get("lastError") for r in told)


@pytest.mark.servers("prometheus")
def test_the_alerts_that_fire_are_those_of_what_happened_and_are_filled_in(scene: Scene) -> None:
    expected = {("TrimtabPromotion", "firing", "by-rows"), ("TrimtabCheckOverdue", "pending", "by-days")}

    def told() -> dict[tuple[str, str, str], dict[str, Any]]:
        alerts = scene.server.ask("alerts")["alerts"]
        return {(a["labels"]["alertname"], a["state"], a["labels"].get("project", "")): a for a in alerts}

    until(lambda: told().keys() >= expected, 20)
    found = told()
    # The days lie in the past, and a late check has five minutes' grace. A scrape that a busy machine cut off may pend.
    assert {alert for alert in found if alert[1] == "firing" or alert[2]} == expected
    for alert in found.values():
        said = " ".join(alert["annotations"].values())
        assert "{{" not in said
        assert "<no value>" not in said
        assert "error" not in said.lower()
        assert alert["labels"]["project"] in alert["annotations"]["summary"]


@pytest.mark.servers("prometheus")
def test_the_pages_are_rendered_with_what_the_projects_have(scene: Scene) -> None:
    pages = {
        "trimtab.html": ("by-rows", "by-days", "v2", "Promotion", "accuracy"),
        "trimtab-project.html?project=by-rows": ("by-rows", "v2", "promoted", "means", "guard", "25%"),
        "trimtab-project.html?project=by-days": ("by-days", "v1", "none yet"),
        "trimtab-project.html?project=no-such": ("No exporter tells of a project of this name",),
    }
    for page, words in pages.items():
        status, text = get(f"{scene.server.address}/consoles/{page}")
        assert status == 200, text
        assert not re.search(r"error|<no value>|%!|ZgotmplZ|NaN", text.split("<script>")[0].partition("</style>")[2])
        for word in words:
            assert word in text, (page, word)


@pytest.mark.servers("prometheus")
def test_a_project_s_name_in_the_address_is_no_code(scene: Scene) -> None:
    wild = "%22%7D%20or%20vector(1)%3Cscript%3Ealert(1)%3C/script%3E"
    status, text = get(f"{scene.server.address}/consoles/trimtab-project.html?project={wild}")
    assert status == 200
    assert "<script>alert" not in text
    assert "No exporter tells" in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.servers("prometheus", "chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
@pytest.mark.parametrize("page", ["trimtab.html", "trimtab-project.html?project=by-rows&hours=1"])
def test_a_browser_shows_the_pages_without_complaint(
    scene: Scene, browser: Browser, tmp_path: Path, page: str, width: int, scheme: str
) -> None:
    browser.complaints()
    browser.requests()
    browser.visit(f"{scene.server.address}/consoles/{page}", width, scheme)
    if "project" in page:
        until(lambda: browser.ask("document.body.dataset.drawn") == "yes", 20)
        assert browser.ask("document.querySelectorAll('.chart svg').length") == 4
        assert browser.ask("document.querySelectorAll('.chart .series').length") >= 3
    browser.screenshot(tmp_path / "page.png")
    assert browser.complaints() == []
    assert all(address.startswith((scene.server.address, "data:")) for address in browser.requests())
    assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert "by-rows" in browser.ask("document.body.innerText")
