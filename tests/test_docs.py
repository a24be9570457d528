"""What the documents say: their examples load, their tables are those of the code, their links lead somewhere."""

import dataclasses
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab import discover, parts
from trimtab.metric import choose
from trimtab.settings import Project

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
    key=lambda page: str(page.relative_to(ROOT)),
)
LEAST: dict[str, Any] = {
    "name": "p",
    "source": {"path": "rows.csv", "label": "y"},
    "features": {"x": {}},
    "window": {"every": "7d"},
    "model": {"factory": "trimtab_torch.networks:Mlp"},
}
EXAMPLES = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL), 1)
]


def generator() -> dict[str, Any]:
    """Return the names of the script that writes the tables."""
    return runpy.run_path(str(ROOT / "docs" / "generate.py"))


def keys(page: Path) -> set[str]:
    """Return what stands as code in the first cells of a page's tables."""
    cells = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| ")]
    return {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_there_are_examples_to_try() -> None:
    assert len(EXAMPLES) >= 9
    assert any("README.md" in str(example.id) for example in EXAMPLES)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_of_a_project_file_can_be_put_together(text: str, tmp_path: Path) -> None:
    written = re.findall(r"^(\w+):", text, re.MULTILINE)
    rest = {key: value for key, value in LEAST.items() if key not in written}
    path = tmp_path / "p.yaml"
    path.write_text(text + yaml.safe_dump({**rest, "home": str(tmp_path / "home")}))
    project = Project.load(path)
    runtimes = parts.runtimes_of(project)
    space = parts.space_of(project, runtimes)
    point = parts.sampler_of(project, space).begin(space.parameters, 2 + len(project.targets), project.seed).ask()
    assert point is not None
    trainer = discover.build("trainers", project.model.trainer, project.model.settings, "model")
    choose(project.model.metric, project.model.trainer, trainer.task)
    assert parts.monitors_of(project)
    assert (parts.meter_of(project) is None) is (project.benchmark.energy is None)


@pytest.mark.parametrize("page", ["howto/techniques.md", "settings.md", "metrics.md"])
def test_the_tables_are_those_of_the_code(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert generator()["render"](text) == text, "the code has changed: run `make docs`"


def test_a_table_follows_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = generator()
    render, page = found["render"], "before <!-- generated: techniques -->\nold\n<!-- end --> after"
    rendered = render(page)
    assert re.fullmatch(r"before <!-.*-> after", rendered, re.DOTALL)
    assert "old" not in rendered
    assert "| [`prune.channel`](#prunechannel) | torch | torch |" in rendered
    monkeypatch.setitem(found["TABLES"], "techniques", lambda: "new")
    assert render(rendered) == "before <!-- generated: techniques -->\n\nnew\n\n<!-- end --> after"


def test_every_technique_and_each_of_its_settings_is_named() -> None:
    page = ROOT / "docs" / "howto" / "techniques.md"
    known = keys(page)
    for name in discover.installed("techniques"):
        assert name in known
        assert {f.name for f in dataclasses.fields(discover.find("techniques", name))} <= known, name
    undescribed = [line for line in page.read_text().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert not undescribed


def test_every_setting_of_a_project_file_is_named() -> None:
    page = ROOT / "docs" / "settings.md"
    known = keys(page)
    sections = set(re.findall(r"^### ([a-z]+)", page.read_text(), re.MULTILINE))
    assert set(Project.model_fields) <= known | sections
    within = {name: s["properties"] for name, s in Project.model_json_schema()["$defs"].items() if "properties" in s}
    assert {"Target", "Gate", "Halving", "Step"} <= set(within)
    missing = {f"{name}.{key}" for name, properties in within.items() for key in properties if key not in known}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(p.name for p in folder.glob("0*.md"))


def test_every_benchmark_of_the_makefile_is_described_and_exists() -> None:
    rules = re.findall(r"^(bench-[\w -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    names = {name.removeprefix("bench-") for rule in rules for name in rule.split()}
    assert names >= {"trust", "optimization", "search", "recalibrate", "seeds", "kill", "rounds"}
    assert names <= keys(ROOT / "README.md")
    for name in names:
        assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name


def test_figures_of_benchmarks_that_are_kept_say_what_they_depend_on() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        kept = json.loads(path.read_text())
        assert {"figures", "seed", "versions", "machine", "date"} <= set(kept), path.name
