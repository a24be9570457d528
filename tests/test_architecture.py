"""The directions of the architecture, the lightness of the command line, and that what is exported exists."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT, ROOT / "plugins", ROOT / "monitors", ROOT / "flows")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = sorted(p.parent.name for source in SOURCES for p in source.glob("trimtab*/__init__.py"))
MODULES = sorted(
    ".".join(path.relative_to(source).with_suffix("").parts)
    for source in SOURCES
    for package in source.glob("trimtab*")
    for path in package.rglob("*.py")
    if (package / "__init__.py").is_file() and path.name != "__main__.py"
)
HEAVY = ("torch", "mlflow", "evidently", "prefect", "pandas", "sqlalchemy", "onnxruntime", "sklearn", "scipy")
MOST_CPU_SECONDS = 0.35


def python(code: str) -> str:
    """Run in a fresh interpreter that finds the sources, and nothing else of this process's."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, SOURCES)), "HOME": os.devnull}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


def test_the_tools_look_at_every_package() -> None:
    tools = PYPROJECT["tool"]
    assert sorted(tools["mypy"]["packages"]) == PACKAGES
    assert sorted(tools["importlinter"]["root_packages"]) == PACKAGES
    layers = tools["importlinter"]["contracts"][0]["layers"]
    assert sorted(name.strip() for layer in layers for name in layer.split("|")) == PACKAGES


def test_the_engine_may_import_none_of_the_libraries_that_edges_adapt() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    forbidden = next(c for c in contracts if c["type"] == "forbidden")["forbidden_modules"]
    assert {"torch", "mlflow", "evidently", "prefect", "onnx", "onnxruntime", "prometheus_client"} <= set(forbidden)


@pytest.mark.parametrize("module", ["trimtab", "trimtab.cli"])
def test_what_every_command_imports_is_light(module: str) -> None:
    loaded = python(f"import sys, {module}; print(' '.join(sorted(sys.modules)))").split()
    assert module in loaded
    assert not set(HEAVY) & set(loaded)


def test_the_engine_loads_none_of_the_edges() -> None:
    names = ", ".join(m for m in MODULES if m.startswith("trimtab."))
    loaded = set(python(f"import sys, {names}; print(' '.join(sorted(sys.modules)))").split())
    assert not loaded & {"torch", "mlflow", "evidently", "prefect", "onnx", "onnxruntime", "prometheus_client"}
    assert not {name for name in loaded if name.startswith("trimtab_")}


def test_help_answers_at_once() -> None:
    code = (
        "import resource, subprocess, sys\n"
        "command = [sys.executable, '-c', 'from trimtab.cli import main; main([\"--help\"])']\n"
        "spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])\n"
        "costs = []\n"
        "for _ in range(3):\n"
        "    before = spent()\n"
        "    subprocess.run(command, capture_output=True, check=True)\n"
        "    costs.append(spent() - before)\n"
        "print(min(costs))"
    )
    assert float(python(code)) <= MOST_CPU_SECONDS


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_exports_exists(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert [n for n in exported if not hasattr(module, n)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed_for_whoever_imports_it(package: str) -> None:
    (folder,) = (source / package for source in SOURCES if (source / package / "__init__.py").is_file())
    assert (folder / "py.typed").is_file()


def test_every_entry_point_names_what_is_there() -> None:
    for kind, points in PYPROJECT["project"]["entry-points"].items():
        assert kind.startswith("trimtab.")
        for name, reference in points.items():
            module, _, attribute = reference.partition(" [")[0].partition(":")
            assert hasattr(importlib.import_module(module), attribute), f"{kind} {name} = {reference}"
