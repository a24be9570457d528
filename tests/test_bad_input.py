"""Bad input as a user meets it: a clear message and exit code, a record in the journal, and nothing lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests import fakes
from trimtab import champion, cli
from trimtab.journal import Journal
from trimtab.monitor import Answer
from trimtab.parts import assemble
from trimtab.settings import Project
from trimtab.trigger import Action

YOURS, SERVER, OURS = 2, 3, 70
ROWS = 200
FIRST_WEEK = pd.Timestamp("2026-01-05")
NETWORKS = '''
from torch import nn


class Branching(nn.Module):
    """Its forward depends on the values that it is given."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.layer = nn.Linear(inputs, classes)

    def forward(self, table):
        return self.layer(table) if table.sum() > 0 else -self.layer(table)


def raising(inputs, classes):
    raise KeyError("weights")


def nothing(inputs, classes):
    return None


def narrow(classes):
    return nn.Linear(1, classes)
'''


Change = Callable[[pd.DataFrame], pd.DataFrame]


def week(number: int) -> pd.DataFrame:
    """One week of rows; weeks up to 0 lie before window 1."""
    rng = np.random.default_rng(number + 100)
    a, b = rng.normal(size=(2, ROWS))
    colour = rng.choice(["red", "green", "blue"], ROWS, p=[0.5, 0.3, 0.2])
    minutes = (number + 2) * 7 * 24 * 60 + np.arange(ROWS) * 50
    return pd.DataFrame(
        {
            "at": FIRST_WEEK + pd.to_timedelta(minutes, unit="min"),
            "id": [f"{number}-{row}" for row in range(ROWS)],
            "a": a,
            "b": b,
            "colour": colour,
            "y": (a + b * (colour == "red") > 0).astype(int),
        }
    )


@dataclass(frozen=True)
class Desk:
    """A folder with a project file, its rows (a file a week), and somebody who types commands."""

    folder: Path
    capture: pytest.CaptureFixture[str] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "p.yaml"

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "name": "p",
            "home": str(self.folder / "home"),
            "source": {
                "kind": "csv",
                "path": str(self.folder / "rows" / "*.csv"),
                "timestamp": "at",
                "label": "y",
                "id": "id",
            },
            "features": {"a": {}, "b": {}, "colour": {"kind": "categorical"}},
            "window": {"every": "7d", "start": "2026-01-26"},
            "data": {"train": "last 2 windows"},
            "model": {
                "factory": "trimtab_torch.networks:Mlp",
                "arguments": {"hidden": [8]},
                "epochs": 2,
                "learning_rate": 0.5,
            },
            "monitors": {"use": ["integrity", "evidently.drift", "performance"]},
            "trigger": {"on": ["worse"]},
            "optimize": {"techniques": ["finetune", "export"], "candidates": 2},
        }

    def write(self, **changes: Any) -> Desk:
        self.config.write_text(yaml.safe_dump(self.settings | changes))
        return self

    def deliver(self, number: int, change: Change = lambda frame: frame) -> Desk:
        (self.folder / "rows").mkdir(exist_ok=True)
        change(week(number)).to_csv(self.folder / "rows" / f"{number + 10:02d}.csv", index=False)
        return self

    def type(self, *arguments: str, debug: bool = False) -> int:
        try:
            cli.main([*(["--debug"] if debug else []), *arguments])
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def run(self, *arguments: str, command: str = "run") -> tuple[int, str]:
        """Type ``trimtab run``, and return the exit code and all that was told."""
        assert self.capture is not None
        self.capture.readouterr()
        code = self.type(command, str(self.config), "--direct", *arguments)
        told = self.capture.readouterr()
        assert "Traceback" not in told.err + told.out
        assert "fault of trimtab" not in told.err
        return code, told.err

    @property
    def journal(self) -> Journal:
        return Journal(
            f"sqlite:///{self.folder / 'home' / 'journal.db'}", yaml.safe_load(self.config.read_text())["name"]
        )

    def errors(self) -> list[str]:
        return [str(detail["message"]) for _, _, detail in self.journal.records("error")]

    def champion(self) -> int:
        """The champion after reconciling; it is loaded, and each of its files checked, on the way."""
        self.write()
        serving = champion.reconcile(assemble(Project.load(self.config), beside=self.folder))
        assert serving is not None
        return serving.version


# rows

BAD: dict[int, tuple[Change, str]] = {
    2: (lambda f: f.assign(a=np.nan), "column 'a': all 200 values are missing"),
    3: (lambda f: f.assign(b=f["b"].where(f.index != 5, np.inf)), "column 'b': 1 of 200 values are infinite"),
    4: (lambda f: f.iloc[:0], "window 4 has no rows"),
    5: (lambda f: f.assign(y=1), "label column 'y': all 200 labels are 1"),
    6: (lambda f: f.assign(y=f["y"].where(f.index > 6, 7)), "7 of 200 labels are none of the classes [0, 1]: 7 (7)"),
    7: (lambda f: f.assign(id=f["id"].where(f.index != 1, f["id"][0])), "id column 'id': 1 ids occur more than once"),
    8: (lambda f: f.rename(columns={"colour": "color"}), "column 'colour' (setting features.colour) is missing"),
    9: (lambda f: f.assign(a=[f"{v}V" for v in f["a"]]), "column 'a' held numbers and now holds string"),
    10: (lambda f: f.drop(columns="b"), "column 'b' (setting features.b) is missing"),
    11: (lambda f: f.assign(colour=1.5), "column 'colour' held text and now holds floating"),
    12: (lambda f: f.drop(columns="y"), "column 'y' (setting source.label) is missing"),
}
LAST = max(BAD) + 1


@pytest.fixture(scope="module")
def bad_weeks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, int]:
    """A stream in which every week but the first and the last is bad in its own way, seen once."""
    desk = Desk(tmp_path_factory.mktemp("bad-weeks"))
    (desk.folder / "nets_of_bad_input.py").write_text(NETWORKS)
    for number in range(-2, LAST + 1):
        desk.deliver(number, BAD[number][0] if number in BAD else lambda frame: frame)
    return desk, desk.write().type("run", str(desk.config), "--direct")


@pytest.fixture
def served(bad_weeks: tuple[Desk, int], capsys: pytest.CaptureFixture[str]) -> Desk:
    """The project after that stream: it has a champion."""
    return Desk(bad_weeks[0].folder, capsys).write()


def test_bad_weeks_end_in_the_users_exit_code_and_lose_no_other_week(bad_weeks: tuple[Desk, int]) -> None:
    desk, code = bad_weeks
    assert code == YOURS
    assert desk.champion() == 1
    windows = desk.journal.windows()
    assert [w.number for w in windows] == list(range(1, LAST + 1))
    assert {w.number for w in windows if w.action is Action.QUARANTINE} == set(BAD)
    assert desk.journal.quarantined() == set(BAD)
    assert {q.window for q in desk.journal.qualities()} == {1, LAST}


@pytest.mark.parametrize("number", BAD)
def test_a_bad_week_is_quarantined_with_column_value_and_way_out(bad_weeks: tuple[Desk, int], number: int) -> None:
    records = [detail for _, _, detail in bad_weeks[0].journal.records("quarantine") if detail["window"] == number]
    assert len(records) == 1
    reasons = " ".join(records[0]["reasons"])
    assert BAD[number][1] in reasons
    assert any(way in reasons for way in ("mend", "check", "map", "drop", "bring it back", "turn it back"))


def test_one_bad_cell_of_a_csv_file_breaks_its_own_week_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both columns are text in the whole file then, for CSV knows no types."""
    desk = Desk(tmp_path, capsys)
    weeks = [week(n).astype({"a": object, "y": object}) for n in range(-2, 4)]
    weeks[4].loc[7, "a"] = "n. a. (sensor off)"
    weeks[5].loc[3, "y"] = "maybe"
    (tmp_path / "rows").mkdir()
    pd.concat(weeks).to_csv(tmp_path / "rows" / "all.csv", index=False)
    code, told = desk.write().run()
    assert code == YOURS
    assert "after window 2: column 'a' held numbers and now holds string (object) such as 'n. a. (sensor off)'" in told
    assert "after window 3: label column 'y': 1 of 200 labels are none of the classes" in told
    assert desk.journal.quarantined() == {2, 3}
    assert desk.champion() == 1


def test_labels_that_come_late_are_guarded_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk(tmp_path, capsys).write(window={"every": "7d", "start": "2026-01-26", "label_delay": 1})
    for number in range(-2, 4):
        desk.deliver(number, lambda f: f.assign(y=np.nan) if f["id"][0] in ("2-0", "3-0") else f)
    assert desk.run()[0] == 0
    assert {q.window for q in desk.journal.qualities()} == {1}
    desk.deliver(2, lambda f: f.assign(y="maybe")).deliver(3).deliver(4)
    code, told = desk.run()
    assert code == YOURS
    assert "window 2: label column 'y': 200 of 200 labels are none of the classes [0, 1]: 'maybe' (200)" in told
    assert desk.journal.quarantined() == {2}
    assert {q.window for q in desk.journal.qualities()} == {1, 3, 4}
    assert [w.action for w in desk.journal.windows()] == [Action.IGNORE] * 4
    assert desk.run()[0] == 0


def test_a_person_is_asked_for_and_releases_what_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk(tmp_path, capsys).write()
    for number in range(-2, 4):
        desk.deliver(number, BAD[7][0] if number > 0 else lambda frame: frame)
    code, told = desk.run()
    asks = "a person is needed: 'id' broken in 3 windows in a row, up to 3; mend the source, release what is right"
    assert (code, asks in told) == (YOURS, True)

    def typed(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = desk.type(*arguments)
        return code, " ".join("".join(capsys.readouterr()).split())

    code, told = typed("status", str(desk.config))
    assert (code, asks in told, "p: waiting, champion v1" in told) == (0, True, True)
    code, told = typed("release", str(desk.config), "3", "--reason", "the ids of the old system")
    assert (code, asks in told, "p: serving, champion v1" in told) == (0, False, True)
    assert "released" in told
    assert "window 3: evidently.drift says fine" in told
    assert desk.journal.quarantined() == {1, 2}
    assert desk.journal.released()[3]["reason"] == "the ids of the old system"
    assert desk.journal.released()[3]["who"]
    assert desk.run()[0] == 0
    assert {q.window for q in desk.journal.qualities()} == {3}
    for number, words in (("3", "was released already, by "), ("0", "was not looked at yet: windows 1 to 3 were")):
        code, told = typed("release", str(desk.config), number)
        assert (code, words in told, words in desk.errors()[-1]) == (YOURS, True, True)


# the project file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gaet": {}}, ["gaet: unknown key", "Did you mean 'gate'?"]),
        ({"gate": {"confidnce": 0.9}}, ["gate.confidnce: unknown key", "Did you mean 'confidence'?"]),
        ({"data": {"split": {"trian": 0.6}}}, ["data.split.trian: unknown key", "Did you mean 'train'?"]),
        ({"features": {"a": {"knd": "numeric"}}}, ["features.a.knd: unknown key", "Did you mean 'kind'?"]),
        ({"targets": [{"runtim": "onnxruntime"}]}, ["1 problem(s)", "targets.0.runtim", "Did you mean 'runtime'?"]),
        ({"targets": [{"runtime": "onxruntime"}]}, ["targets.0.runtime: no runtime named 'onxruntime'", "onnxruntime"]),
        ({"monitors": {"use": ["performence"]}}, ["monitors.use: no monitor", "Did you mean 'performance'?"]),
        ({"monitors": {"performence": {}}}, ["unknown key 'performence'", "Did you mean 'performance'?"]),
        (
            {"monitors": {"performance": {"max_dorp": 1}}},
            ["monitors.performance: unknown setting 'max_dorp'", "Did you mean 'max_drop'?"],
        ),
        (
            {"monitors": {"performance": {"max_drop": 7}}},
            ["monitors.performance: max_drop must be in [0, 1), got 7"],
        ),
        ({"monitors": {"performance": 7}}, ["performance: a monitor's settings are a mapping", "got 7"]),
        (
            {"optimize": {"techniques": ["finetun", "export"]}},
            ["optimize.techniques.finetun: no technique named 'finetun'", "Did you mean 'finetune'?"],
        ),
        (
            {"optimize": {"techniques": [{"finetune": {"epoch": 3}}, "export"]}},
            ["optimize.techniques.finetune: unknown setting 'epoch'", "Did you mean 'epochs'?"],
        ),
        ({"optimize": {"techniques": [{"finetune": 3}]}}, ["optimize.techniques.0: it is a name, or"]),
        ({"optimize": {"techniques": "finetune"}}, ["optimize.techniques: Input should be a list, got 'finetune'"]),
        ({"optimize": {"techniques": ["finetune"]}}, ["optimize.techniques: none of ['finetune']", "such as export"]),
        (
            {"optimize": {"recipes": [{"steps": [{"techniqe": "export"}]}]}},
            ["optimize.recipes.0.steps.0.techniqe: unknown key", "Did you mean 'technique'?"],
        ),
        (
            {"optimize": {"recipes": [{"steps": [{"technique": "finetune"}]}]}},
            ["recipe 'finetune' ends in format torch", "add a technique that converts, such as export"],
        ),
        ({"trigger": {"confirm": "5 of 3"}}, ["trigger.confirm: '5 of 3' must be 'm of k'"]),
        ({"gate": 3}, ["gate: Input should be a mapping of settings, got 3"]),
        ({"model": {"factory": "x:y", "epoch": 1}}, ["model: unknown setting 'epoch'", "Did you mean 'epochs'?"]),
        ({"model": {"trainer": "torch.clasifier"}}, ["model: no trainer named", "Did you mean 'torch.classifier'?"]),
        ({"registry": {"kind": "mlfow"}}, ["registry: no registry named 'mlfow'", "Did you mean 'mlflow'?"]),
        ({"registry": {"url": "mlruns"}}, ["registry.url must be a database or an MLflow server, got 'mlruns'"]),
        ({"journal": {"url": "nonsense"}}, ["journal.url is no database's address", "write one such as"]),
        ({"journal": {"url": "oracel://x/y"}}, ["journal.url oracel://x/y", "or name another"]),
        ({"source": {"kind": "cvs", "path": "x"}}, ["source: no source named 'cvs'", "Did you mean 'csv'?"]),
        ({"source": {"kind": "csv", "path": "nowhere.csv", "timestamp": "at"}}, ["source.path: no file 'nowhere.csv'"]),
        (
            {"source": {"kind": "csv", "path": "rows.csv", "timestamp": "att", "label": "y"}},
            ["column 'att' (setting source.timestamp) is not in the rows", "Did you mean 'at'?"],
        ),
        ({"window": {"every": "7 days"}}, ["window.every: '7 days', but this project began with '7d'", "set it back"]),
    ],
    ids=str,
)
def test_a_wrong_setting_is_told_recorded_and_changes_nothing(
    served: Desk, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: list[str]
) -> None:
    monkeypatch.chdir(served.folder)
    (served.folder / "rows.csv").write_text(week(0).to_csv(index=False))
    before, windows = served.errors(), served.journal.windows()
    code, told = served.write(**changes).run()
    assert code == YOURS
    assert all(part in told for part in words), told
    recorded = served.errors()[len(before) :]
    if "journal" not in changes:  # which then is nowhere
        assert len(recorded) == 1
        assert all(part in recorded[0] for part in words)
    assert served.champion() == 1
    assert served.journal.windows() == windows


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("window.evry=3d", "window.evry: unknown key"),
        ("window", "--set 'window' is not of the form key.key=value"),
        ("model.epochs=many", "model.epochs: Input should be a valid integer"),
        ("optimize.techniques.0=prune", "optimize.techniques: Input should be a list"),
        ("gate.confidence=[", "--set gate.confidence: '[' is not valid YAML"),
    ],
)
def test_a_wrong_override_is_told_and_recorded(served: Desk, override: str, words: str) -> None:
    code, told = served.run("--set", override)
    assert code == YOURS
    assert words in told
    assert words in served.errors()[-1]
    assert served.champion() == 1


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("q.yaml", None, "project file 'q.yaml' cannot be read: No such file or directory. Did you mean 'p.yaml'?"),
        ("bad.yaml", "name: [p\n x: {", "bad.yaml is not valid YAML: while parsing a flow sequence"),
        ("bad.yaml", "- p\n", "bad.yaml holds a list; a project file is a mapping of settings"),
        ("bad.yaml", "", "bad.yaml holds a NoneType; a project file is a mapping of settings"),
    ],
)
def test_a_project_file_that_cannot_be_read_is_named(
    served: Desk, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None, words: str
) -> None:
    monkeypatch.chdir(served.folder)
    if text is not None:
        (served.folder / name).write_text(text)
    assert served.capture is not None
    served.capture.readouterr()
    code = served.type("run", name, "--direct")
    (served.folder / name).unlink(missing_ok=True)
    told = served.capture.readouterr().err
    assert code == YOURS
    assert words in told
    assert "Traceback" not in told


def test_the_traceback_is_there_when_asked_for(served: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.write(gaet={}).type("run", str(served.config), "--direct", debug=True) == YOURS
    assert "Traceback" in capsys.readouterr().err


# servers


def test_an_mlflow_that_does_not_answer_is_no_fault_of_the_user(served: Desk) -> None:
    windows = served.journal.windows()
    code, told = served.run("--set", "registry.url=http://127.0.0.1:9")
    assert code == SERVER
    assert "MLflow at registry.url='http://127.0.0.1:9' does not answer" in told
    assert "registry.url='http://127.0.0.1:9' does not answer" in served.errors()[-1]
    assert served.champion() == 1
    assert served.journal.windows() == windows


# the model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"factory": "nets_of_bad_input:Branching"}, "model does not export: "),
        ({"factory": "nets_of_bad_input:raising"}, "raised KeyError: 'weights' when called with"),
        ({"factory": "nets_of_bad_input:nothing"}, "gave a NoneType; it must return a torch.nn.Module"),
        ({"factory": "nets_of_bad_input:narrow"}, "its network raised RuntimeError"),
        ({"factory": "nets_of_bad_input:narow"}, "has no 'narow'. Did you mean 'narrow'?"),
        ({"factory": "nets_of_nobody:Net"}, "module 'nets_of_nobody' does not import (ModuleNotFoundError"),
        ({"factory": "Net"}, "model.factory: 'Net' is not of the form 'module:name'"),
        (
            {"factory": "trimtab_torch.networks:Mlp", "arguments": {"hiden": [8]}},
            "model.arguments.hiden: 'trimtab_torch.networks:Mlp' has no such parameter; it has inputs, outputs, "
            "hidden, dropout, norm. Did you mean 'hidden'?",
        ),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_built_is_told_and_can_be_mended(
    tmp_path: Path, served: Desk, model: dict[str, Any], words: str
) -> None:
    desk = Desk(tmp_path, served.capture)
    for number in (-2, -1, 0):
        desk.deliver(number)
    (tmp_path / "nets_of_bad_input.py").write_text(NETWORKS)
    registry = {"url": f"sqlite:///{served.folder / 'home' / 'mlflow.db'}"}
    desk.write(name="q", model={"epochs": 1, **model}, registry=registry)
    code, told = desk.run()
    assert code == YOURS
    assert words in told
    assert words in desk.errors()[-1]
    assert [p.version for p in desk.journal.promotions()] == []


def test_after_mending_settings_code_and_rows_the_first_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path, capsys)
    for number in range(-2, 2):
        desk.deliver(number, lambda f: f.drop(columns="b"))
    (tmp_path / "nets_to_mend.py").write_text(NETWORKS)
    factory = {"factory": "nets_to_mend:Branching", "epochs": 1}
    few = {"a": {}, "colour": {"kind": "categorical"}}
    code, told = desk.write(model=factory).run()
    assert (code, "column 'b' (setting features.b) is not in the rows" in told) == (YOURS, True)
    code, told = desk.write(model=factory, features=few).run()
    assert (code, "model does not export" in told) == (YOURS, True)
    (tmp_path / "nets_to_mend.py").write_text("from torch import nn\n\n\nclass Branching(nn.Linear):\n    pass\n")
    sys.modules.pop("nets_to_mend")
    code, told = desk.write(model=factory | {"arguments": {"in_features": 4, "out_features": 2}}, features=few).run()
    assert (code, [p.version for p in desk.journal.promotions()]) == (0, [1])
    assert [w.number for w in desk.journal.windows()] == [1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.assign(a=np.nan), "column 'a' is empty in every first row"),
        (
            lambda f: f.assign(a=f["a"].where(f.index > 0, np.inf)),
            "are broken: column 'a': 3 of 600 values are infinite",
        ),
        (lambda f: f.assign(id="x"), "are broken: id column 'id': 1 ids occur more than once (599 rows too many)"),
        (lambda f: f.assign(y=1), "label column 'y' holds 1 class(es) [1] in the first rows"),
        (lambda f: f.assign(a="high"), "column 'a' is declared numeric but holds object values such as 'high'"),
        (lambda f: f.rename(columns={"y": "why"}), "column 'y' (setting source.label) is not in the rows"),
    ],
)
def test_bad_rows_before_the_stream_are_told_before_anything_is_trained(
    tmp_path: Path, served: Desk, change: Change, words: str
) -> None:
    desk = Desk(tmp_path, served.capture)
    for number in (-2, -1, 0):
        desk.deliver(number, change)
    registry = {"url": f"sqlite:///{served.folder / 'home' / 'mlflow.db'}"}
    code, told = desk.write(name="r", registry=registry).run()
    assert code == YOURS
    assert words in told
    assert words in desk.errors()[-1]


# plugins

PLUGINS = """
from dataclasses import dataclass
from typing import ClassVar

from trimtab.monitor import Answer, Finding, OnDraw
from trimtab.technique import About


@dataclass(frozen=True)
class Look(OnDraw):
    name: ClassVar[str] = "look"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = False

    def check(self, case):
        return Finding(self.name, case.current.number, Answer.MOVED, ("the sky is blue",))


@dataclass(frozen=True)
class Raises(Look):
    name: ClassVar[str] = "raises"

    def check(self, case):
        raise RuntimeError("no luck today")


@dataclass(frozen=True)
class Mute(Look):
    name: ClassVar[str] = "mute"

    def check(self, case):
        return None


@dataclass(frozen=True)
class Unprintable(Look):
    name: ClassVar[str] = "unprintable"

    def keep(self, case):
        raise OSError("no paper")


@dataclass(frozen=True)
class Unmade(Look):
    name: ClassVar[str] = "unmade"

    def __post_init__(self):
        raise RuntimeError("not on Sundays")


@dataclass(frozen=True)
class Explode:
    about: ClassVar[About] = About(
        name="explode", takes="torch", gives="torch", renews_parent=True, needs_data=True
    )

    def apply(self, model, data, job):
        raise ZeroDivisionError("on purpose")
"""
POINTS = {
    "monitors": {n: n.capitalize() for n in ("raises", "mute", "unprintable", "unmade")} | {"lost": "Lost"},
    "techniques": {"explode": "Explode"},
}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    site = tmp_path_factory.mktemp("site")
    (site / "plugins_of_bad_input.py").write_text(PLUGINS)
    with fakes.installed(site, POINTS, "plugins_of_bad_input"):
        yield
    sys.modules.pop("plugins_of_bad_input", None)


@pytest.mark.parametrize(
    ("monitor", "words", "answer"),
    [
        ("raises", "monitor 'raises' raised RuntimeError on window {}: no luck today", Answer.UNKNOWN),
        ("mute", "monitor 'mute' raised TypeError on window {}: check must give a Finding", Answer.UNKNOWN),
        ("unprintable", "monitor 'unprintable' raised OSError in keeping window {}: no paper", Answer.MOVED),
    ],
)
def test_a_monitor_that_fails_is_told_and_the_others_look(
    served: Desk, monitor: str, words: str, answer: Answer
) -> None:
    number = served.journal.windows()[-1].number + 1
    code, told = served.deliver(number).write(monitors={"use": [monitor, "performance"]}).run()
    assert code == YOURS
    assert words.format(number) in told
    assert words.format(number) in served.errors()[-1]
    found = {f.monitor: f.answer for _, f in served.journal.findings() if f.window == number}
    assert found == {monitor: answer, "performance": Answer.FINE}
    assert served.champion() == 1


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ("unmade", "monitors.unmade: unmade raised RuntimeError when it was made: not on Sundays"),
        ("lost", "monitors.lost: monitor 'lost' (plugins_of_bad_input:Lost) does not import"),
    ],
)
def test_a_monitor_that_cannot_be_made_is_told(served: Desk, monitor: str, words: str) -> None:
    code, told = served.write(monitors={"use": [monitor]}).run()
    assert code == YOURS
    assert words in told
    assert words in served.errors()[-1]
    assert served.champion() == 1


def test_a_technique_that_raises_costs_its_candidate_only(served: Desk) -> None:
    served.write(optimize={"techniques": ["finetune", "explode", "export"]})
    code, _ = served.run("--reason", "try", command="optimize")
    assert code == 0
    asked = served.journal.rounds()[-1]
    outcomes = {c["recipe"]: c["outcome"] for c in asked.detail["candidates"]}
    assert outcomes.pop("explode > export") == "failed"
    assert outcomes.keys() == {"finetune > export"}
    assert outcomes["finetune > export"] != "failed"
    assert "technique 'explode' raised ZeroDivisionError: on purpose" in served.errors()[-1]
    assert served.champion() == served.journal.promotions()[-1].version


def test_a_round_that_fails_for_its_input_leaves_the_champion_and_the_next_weeks_alone(served: Desk) -> None:
    number = served.journal.windows()[-1].number + 1
    serving = served.champion()
    served.deliver(number).deliver(number + 1)
    sick = {"use": ["always"], "always": {"answer": "worse"}}
    code, told = served.write(
        monitors=sick, trigger={"on": ["worse"], "cooldown": 0}, data={"golden": str(served.folder / "gold.csv")}
    ).run()
    assert code == YOURS
    for asked, failed in zip((number, number + 1), served.journal.rounds()[-2:], strict=True):
        assert f"the round asked for after window {asked} failed: data.golden: source.path: no file" in told
        assert (failed.window, failed.outcome) == (asked, "failed")
        assert "data.golden" in failed.detail["error"]
    assert [w.number for w in served.journal.windows()][-2:] == [number, number + 1]
    assert served.champion() == serving
