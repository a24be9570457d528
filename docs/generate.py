"""Write the tables of these pages from the code: ``python docs/generate.py``; a test asks that they agree.

A page keeps its tables between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what stands around them is
written by hand.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from trimtab import discover
from trimtab import sections as typed
from trimtab.gate import Gate
from trimtab.runtime import Target
from trimtab.search import Halving
from trimtab.technique import FLOAT, About
from trimtab.trigger import Budget, Trigger
from trimtab.window import Feature
from trimtab_prometheus.metrics import LABELS, METRICS

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from gained import markdown, sentences

FOLDER = Path(__file__).parent
FIGURES = FOLDER.parent / "benchmarks" / "results" / "techniques.json"
PAGES = (FOLDER / "howto" / "techniques.md", FOLDER / "settings.md", FOLDER / "metrics.md")
REGION = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
REQUIRED: Final = "required"
SECTIONS: Mapping[str, type[BaseModel]] = {
    "source": typed.SourceSettings,
    "features.NAME": Feature,
    "window": typed.WindowSettings,
    "data": typed.DataSettings,
    "data.split": typed.Split,
    "data.train": typed.Training,
    "model": typed.ModelSettings,
    "monitors": typed.MonitorsSettings,
    "trigger": Trigger,
    "trigger.budget": Budget,
    "targets": Target,
    "optimize": typed.OptimizeSettings,
    "optimize.halving": Halving,
    "benchmark": typed.BenchmarkSettings,
    "benchmark.energy": typed.EnergySettings,
    "gate": Gate,
    "runner": typed.RunnerSettings,
    "registry": typed.RegistrySettings,
    "promotion": typed.PromotionSettings,
    "rollout": typed.RolloutSettings,
    "schedule": typed.ScheduleSettings,
    "journal": typed.JournalSettings,
}
BOUNDS = {annotated_types.Gt: ">", annotated_types.Ge: ">=", annotated_types.Lt: "<", annotated_types.Le: "<="}
PLUGINS: tuple[discover.Kind, ...] = ("trainers", "monitors", "metrics", "runtimes", "samplers", "meters", "runners")


def main() -> None:
    """Write every page anew."""
    for page in PAGES:
        page.write_text(render(page.read_text()))


def render(text: str) -> str:
    """Return a page with its tables as the code has them."""
    return REGION.sub(lambda m: f"{m[1]}\n{TABLES[m['name']]()}\n\n{m[3]}", text)


def techniques() -> str:
    """Return the table of all techniques, in the order in which a recipe takes them."""
    head = ("technique", "takes", "gives", "reads", "faster on", "smaller", "rung", "effort")
    rows = [
        (
            f"[`{a.name}`](#{a.name.replace('.', '')})" + (" (experimental)" if a.experimental else ""),
            a.takes,
            a.gives,
            _reads(a),
            ", ".join(a.faster_on),
            "yes" if a.smaller else "",
            "" if a.rung is None else str(a.rung),
            f"`{a.effort}`" if a.effort else "",
        )
        for a in (found.about for found in _techniques())
    ]
    return _table(head, rows)


def technique_settings() -> str:
    """Return what each technique does and its settings."""
    return "\n\n".join(_described("###", found.about.name, found, "techniques") for found in _techniques())


def technique_figures(path: Path = FIGURES) -> str:
    """Return what each technique gave on each ground of ``make bench-techniques``, where figures are kept."""
    if not path.is_file():
        return "No figures are kept here yet."
    kept = json.loads(path.read_text())
    where, figures = f"{kept['machine']['processor']}, {kept['date']}", kept["figures"]
    told = [
        f"{name}, where the float network is {ground['accuracy']['value']:.3f} right ({where}):\n\n{markdown(ground)}"
        for name, ground in figures["grounds"].items()
    ]
    return "\n\n".join([*told, *(f"`search.block`, {line}" for line in sentences(figures.get("blocks", {})))])


def sections() -> str:
    """Return the settings of every section of a project file."""
    return "\n\n".join(_section(name, model) for name, model in SECTIONS.items())


def plugins() -> str:
    """Return the settings of every plugin but techniques, sources and registries, kind by kind."""
    told = []
    for kind in PLUGINS:
        told.append(f"### {kind.capitalize()}")
        told += [_described("####", name, discover.find(kind, name), kind) for name in sorted(discover.installed(kind))]
    return "\n\n".join(told)


def metrics() -> str:
    """Return every metric that the exporter serves."""
    rows = [(f"`{m.exposed}`", m.kind, ", ".join(f"`{n}`" for n in m.labels), _named(m.help)) for m in METRICS]
    return _table(("metric", "type", "labels beside `project`", "what it says"), rows)


def labels() -> str:
    """Return what each label of the metrics holds."""
    return _table(("label", "what it holds"), [(f"`{name}`", said) for name, said in LABELS.items()])


def _named(text: str) -> str:
    """Set names of metrics and settings as code."""
    return re.sub(r"\b(trimtab_\w+|[a-z]+(?:\.[a-z_]+)+)", r"`\1`", text)


TABLES = {
    "metrics": metrics,
    "labels": labels,
    "techniques": techniques,
    "technique-settings": technique_settings,
    "technique-figures": technique_figures,
    "sections": sections,
    "plugins": plugins,
}


def _techniques() -> list[Any]:
    found = [discover.find("techniques", name) for name in discover.installed("techniques")]
    return sorted(found, key=lambda f: _place(f.about))


def _place(about: About) -> tuple[Any, ...]:
    kept = about.takes == about.gives == FLOAT
    return (not kept, about.takes != FLOAT, not about.renews_parent, about.rung or 9, about.needs_teacher, about.name)


def _reads(about: About) -> str:
    what = {"rows": about.needs_data, "labels": about.needs_labels, "the parent": about.needs_teacher}
    return ", ".join(name for name, needed in what.items() if needed)


def _described(level: str, name: str, found: Any, kind: discover.Kind) -> str:
    extras = discover.installed(kind)[name].extras
    needs = [f"Needs `pip install 'trimtab[{extra}]'`." for extra in extras]
    fields = dataclasses.fields(found) if dataclasses.is_dataclass(found) else ()
    defaults = {f.name: _default(f) for f in fields}
    rows = [
        (_coded(names), _once(_plain(defaults[n]) for n in names), said) for names, said in _told(found, list(defaults))
    ]
    table = [_table(("setting", "default", "what it is"), rows)] if rows else []
    return "\n\n".join([f"{level} {name}", _summary(found), *needs, *table])


def _section(name: str, model: type[BaseModel]) -> str:
    rows = []
    for names, said in _told(model, list(model.model_fields)):
        fields = [model.model_fields[n] for n in names]
        defaults = _once(_plain(_default_of(f)) for f in fields)
        rows.append((_coded(names), defaults, _once(map(_rule, fields)), said))
    return f"### {name}\n\n{_summary(model)}\n\n" + _table(("setting", "default", "rule", "what it is"), rows)


def _coded(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def _once(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return REQUIRED if field.default_factory is dataclasses.MISSING else field.default_factory()


def _default_of(field: Any) -> Any:
    default = field.get_default(call_default_factory=True)
    return REQUIRED if default is PydanticUndefined else default


def _plain(value: Any) -> str:
    """Return a value as a project file has it."""
    if value is REQUIRED:
        return REQUIRED
    if isinstance(value, typed.Training):
        return f"`{value}`"
    if isinstance(value, BaseModel):
        return "see below"
    value = os.fspath(value) if isinstance(value, Path) else _json(value)
    written = str(yaml.safe_dump(value, default_flow_style=True, width=10**6))
    return f"`{written.removesuffix('...' + chr(10)).strip()}`"


def _json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_json(v) for v in value]
    return str(value) if isinstance(value, str) else value


def _rule(field: Any) -> str:
    bounds = [f"{sign} {getattr(m, kind.__name__.lower())}" for m in field.metadata for kind, sign in _bound(m)]
    return ", ".join(bounds)


def _bound(mark: object) -> Iterator[tuple[type, str]]:
    yield from ((kind, sign) for kind, sign in BOUNDS.items() if isinstance(mark, kind))


def _summary(found: Any) -> str:
    """Return what a docstring says before its first headline."""
    doc = inspect.getdoc(found) or ""
    said = re.split(r"\n\n[A-Z][a-z]+\n-+\n", doc)[0]
    return _markdown(re.sub(r"\s*(?:Its s|S)ettings are those of\s:class:`[\w.]+`(?:\.|, and:)", "", said))


def _told(found: Any, fields: list[str]) -> list[tuple[list[str], str]]:
    """Return what the docstrings of a class, else of its bases, say of its fields, in the order of the class."""
    left = list(fields)
    told: list[tuple[list[str], str]] = []
    for owner in found.__mro__:
        for names, said in _parameters(owner):
            if mine := [n for n in names if n in left]:
                left = [n for n in left if n not in mine]
                told += _followed(owner, mine, said)
    return sorted([*told, *(([n], "") for n in left)], key=lambda row: fields.index(row[0][0]))


def _followed(owner: Any, names: list[str], said: str) -> Iterable[tuple[list[str], str]]:
    """Follow "As :class:`X` has them" to what X says."""
    pointer = re.fullmatch(r"As :class:`([\w.]+)` has them\.", said)
    if pointer is None:
        return [(names, _markdown(said))]
    module, _, name = pointer[1].rpartition(".")
    other = getattr(importlib.import_module(module or owner.__module__), name)
    return [row for row in _told(other, [f.name for f in dataclasses.fields(other)]) if set(row[0]) <= set(names)]


def _parameters(owner: Any) -> Iterator[tuple[list[str], str]]:
    doc = inspect.cleandoc(owner.__doc__ or "")
    section = re.search(r"(?:^|\n)Parameters\n-+\n(.*?)(?=\n\n[A-Z][a-z]+\n-+\n|\Z)", doc, re.DOTALL)
    for entry in re.finditer(r"^(\w[\w, ]*)\n((?:(?:[ \t].*)?\n?)+)", section[1] if section else "", re.MULTILINE):
        yield [n.strip() for n in entry[1].split(",")], " ".join(entry[2].split())


def _markdown(text: str) -> str:
    text = re.sub(r":attr:`~?(?:[\w.]+\.)?(\w+\.\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").replace("None", "null").replace("True", "true").replace("False", "false")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    used = [any(line[at] for line in lines[1:]) for at in range(len(lines[0]))]
    lines = [[cell for cell, use in zip(line, used, strict=True) if use] for line in lines]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
