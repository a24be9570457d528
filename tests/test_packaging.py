"""What is installed is what is here: the wheel holds every package, and works away from the repository."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = (ROOT, ROOT / "plugins", ROOT / "monitors", ROOT / "flows")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build through an archive of the tracked files: a stale build folder would bring deleted modules along."""
    folder = tmp_path_factory.mktemp("wheel")
    archive, tree = folder / "tree.tar", folder / "tree"
    tree.mkdir()
    subprocess.run(["git", "archive", "-o", archive, "HEAD"], cwd=ROOT, check=True)
    subprocess.run(["tar", "-xf", archive, "-C", tree], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, tree]
    subprocess.run(build, check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_package_and_its_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = [p for root in ROOTS for p in root.glob("trimtab*") if (p / "__init__.py").is_file()]
    assert len(packages) == 14
    for package in packages:
        assert f"{package.name}/__init__.py" in names
        assert f"{package.name}/py.typed" in names
    assert {"trimtab_sklearn/digits.yaml", "trimtab_matplotlib/page.html", "trimtab_matplotlib/page.css"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_holds_what_prometheus_and_alertmanager_read(wheel: Path) -> None:
    held = zipfile.ZipFile(wheel)
    place = "trimtab_prometheus/configuration/"
    files = {n.removeprefix(place): held.read(n) for n in held.namelist() if n.startswith(place)}
    assert {"prometheus.yml", "trimtab.rules.yml", "trimtab.alerts.yml", "alertmanager.yml"} <= set(files)
    shipped = {p.name for p in (ROOT / "deploy" / "prometheus" / "consoles").iterdir()}
    assert {name.removeprefix("consoles/") for name in files if name.startswith("consoles/")} == shipped
    for name, text in files.items():
        assert text == (ROOT / "deploy" / "prometheus" / name).read_bytes()


def test_the_wheel_works_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel]
    subprocess.run(install, check=True)
    code = "import trimtab, trimtab.cli; print(trimtab.__file__); trimtab.cli.main(['plugins', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert str(target) in done.stdout.splitlines()[0]
    for name in ("evidently.drift", "quantize.static", "onnxruntime", "mlflow", "prefect", "digits"):
        assert name in done.stdout


def test_every_dependency_is_pinned_and_inside_its_range() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [r for extra in project["optional-dependencies"].values() for r in extra]
    wanted = [r for r in map(Requirement, (*project["dependencies"], *extras)) if r.name != project["name"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {
        name.lower().replace("_", "-"): v for name, _, v in (line.partition("==") for line in lines if "==" in line)
    }
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[requirement.name.lower().replace("_", "-")]), requirement.name


def test_every_project_file_ships_with_where_its_data_is_found() -> None:
    text = (ROOT / "configs" / "electricity.yaml").read_text()
    assert "data/electricity.csv.gz" in text
    assert (ROOT / "configs" / "digits.yaml").resolve() == ROOT / "plugins" / "trimtab_sklearn" / "digits.yaml"
