"""The project file: which source wins, and what is told about a key or value that is wrong."""

import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trimtab import discover
from trimtab.errors import PluginError, SettingsError
from trimtab.parts import runtimes_of, space_of
from trimtab.sections import count_of
from trimtab.settings import Project
from trimtab.space import Space

ROOT = Path(__file__).parents[1]
LEAST: dict[str, Any] = {
    "name": "p",
    "source": {"path": "rows.csv"},
    "features": {"x": {}},
    "window": {"every": "7d"},
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("TRIMTAB_")]:
        monkeypatch.delenv(name)


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **changes}))
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Project.load(path, overrides)
    return str(caught.value)


def test_defaults_then_file_then_environment_then_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Project.load(write(tmp_path)).gate.confidence == 0.95
    path = write(tmp_path, gate={"confidence": 0.9, "keep": 0.5})
    assert Project.load(path).gate.confidence == 0.9
    monkeypatch.setenv("TRIMTAB_GATE__CONFIDENCE", "0.8")
    assert Project.load(path).gate.confidence == 0.8
    project = Project.load(path, ["gate.confidence=0.7"])
    assert project.gate.confidence == 0.7
    assert project.gate.keep == 0.5


def test_each_source_sets_keys_of_its_own_in_one_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_GATE__MAX_GROWTH", "0.3")
    gate = Project.load(write(tmp_path, gate={"keep": 0.5}), ["gate.min_gain=0.2"]).gate
    assert (gate.keep, gate.max_growth, gate.min_gain, gate.max_slowdown) == (0.5, 0.3, 0.2, 0.05)


def test_the_environment_and_set_take_lists_and_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_TRIGGER", '{"on": ["worse"]}')
    project = Project.load(write(tmp_path), ["optimize.techniques=[finetune, {export: {opset: 18}}]"])
    assert project.trigger.on == ("worse",)
    assert project.choices == [("finetune", {}), ("export", {"opset": 18})]


def test_on_is_a_word_and_not_true(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(LEAST) + "trigger: {on: [moved]}\n")
    assert Project.load(path).trigger.on == ("moved",)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_project_file_that_is_shipped_loads(path: Path) -> None:
    project = Project.load(path)
    assert project.name
    assert Project.model_validate_json(project.model_dump_json()) == project


def test_every_problem_is_told_at_once_with_key_value_and_rule(tmp_path: Path) -> None:
    path = write(tmp_path, gate={"confidenc": 0.9, "keep": 7}, optimize={"candidates": 0}, name="Big Name")
    message = refusal(path)
    assert message.startswith(f"{path}: 4 problem(s)")
    assert "gate.confidenc: unknown key; there are max_quality_drop" in message
    assert "Did you mean 'confidence'?" in message
    assert "gate.keep: Input should be less than 1, got 7" in message
    assert "optimize.candidates: Input should be greater than or equal to 1, got 0" in message
    assert "name: String should match pattern" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gaet": {}}, "gaet: unknown key; there are name, seed, home, source, "),
        ({"gaet": {}}, "Did you mean 'gate'?"),
        ({"source": {"pat": "rows.csv"}}, "source.path: required, and not set"),
        ({"source": {"path": "r", "lable": "y"}}, "Did you mean 'label'?"),
        ({"features": {}}, "features: "),
        ({"features": {"x": {"kin": "numeric"}}}, "Did you mean 'kind'?"),
        ({"targets": [{"runtime": "onnxruntime", "thread": 2}]}, "Did you mean 'threads'?"),
        ({"monitors": {"use": ["integrity"], "integrty": {}}}, "Did you mean 'integrity'?"),
        (
            {"window": {"every": "7d", "label_delay": "a week"}},
            "'a week' is not a number of windows, such as '4 windows'",
        ),
        ({"data": {"split": {"train": 0.9}}}, "must sum to 1, they sum to 1.300"),
        ({"schedule": {"cron": "often"}}, "'often' is no cron of five fields that ever comes, such as '0 4 * * *'"),
        ({"schedule": {"cron": "0 0 31 2 *"}}, "is no cron of five fields that ever comes"),
        ({"schedule": {"timezone": "Mars/Olympus"}}, "'Mars/Olympus' is no IANA name of a time zone"),
        ({"trigger": {"confirm": "3 of 2"}}, "'3 of 2' must be 'm of k' with 1 <= m <= k"),
        ({"model": {"metric": 3}}, "model.metric: it is a name, or one name with a mapping"),
    ],
)
def test_a_wrong_setting_is_told_with_the_right_one(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("gate.confidense=0.9", "Did you mean 'confidence'?"),
        ("gate.confidence", "--set 'gate.confidence' is not of the form key.key=value"),
        ("=3", "is not of the form key.key=value"),
        ("gate.confidence=[1", "--set gate.confidence: '[1' is not valid YAML"),
        ("name.first=p", "name: Input should be a valid string"),
    ],
)
def test_a_wrong_override_is_told(tmp_path: Path, override: str, words: str) -> None:
    assert words in refusal(write(tmp_path), override)


def test_an_override_below_a_value_that_was_set_is_told(tmp_path: Path) -> None:
    message = refusal(write(tmp_path), "gate=3", "gate.confidence=0.9")
    assert message == "--set gate.confidence: 'gate' was set to 3 before, which holds no keys"


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        (
            "TRIMTAB_GAET__CONFIDENCE",
            "environment variable TRIMTAB_GAET__CONFIDENCE: no setting 'gaet'. Did you mean 'gate'?",
        ),
        ("TRIMTAB_GATE__CONFIDENSE", "Did you mean 'confidence'?"),
    ],
)
def test_a_misspelt_variable_is_not_without_effect_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, words: str
) -> None:
    monkeypatch.setenv(variable, "0.9")
    assert words in refusal(write(tmp_path))


def test_a_variable_that_is_no_setting_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_SHARED", "/somewhere")
    assert Project.load(write(tmp_path)).name == "p"


@pytest.mark.parametrize(("variable", "value"), [("TRIMTAB_GATE", "{confidence"), ("TRIMTAB_TRIGGER__ON", "[worse")])
def test_a_variable_that_is_no_json_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("TRIMTAB_NAME", "q")
    monkeypatch.setenv(variable, value)
    message = refusal(write(tmp_path))
    assert variable in message
    assert "TRIMTAB_NAME" not in message


def test_a_file_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path)
    assert "cannot be read: No such file or directory. Did you mean 'p.yaml'?" in refusal(tmp_path / "pp.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [("name: [", "is not valid YAML"), ("- a\n- b\n", "holds a list; a project file is a mapping"), ("", "holds a")],
)
def test_a_file_that_is_no_mapping_is_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    assert words in refusal(path)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    assert "is not valid YAML" in refusal(path)


def test_a_project_keeps_everything_in_its_home(tmp_path: Path) -> None:
    project = Project.load(write(tmp_path), [f"home={tmp_path / 'there'}"])
    assert project.folder == tmp_path / "there"
    assert project.journal_url == f"sqlite:///{tmp_path}/there/journal.db"
    assert project.registry_url == f"sqlite:///{tmp_path}/there/mlflow.db"
    assert Project.load(write(tmp_path)).folder == Path(".trimtab") / "p"


def test_settings_cannot_be_changed_after_loading(tmp_path: Path) -> None:
    project = Project.load(write(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        project.gate.confidence = 0.5  # type: ignore[misc]


@given(st.integers(0, 10**6))
def test_counts_are_read_in_words(count: int) -> None:
    for text in (count, str(count), f"{count} windows", f"last {count} windows", f"last {count} window"):
        assert count_of(text, "window") == count


@pytest.mark.parametrize("text", ["", "-1 windows", "1.5 windows", "windows", "3 days", "last"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of windows"):
        count_of(text, "window")


def test_promotion_is_told_in_a_word_or_with_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    for written, mode, expires in (("manual", "manual", 4), ("{mode: manual, expires: 2 windows}", "manual", 2)):
        file.write_text(
            f"name: p\nsource: {{path: x.csv}}\nwindow: {{every: 7d}}\nfeatures: {{x: {{}}}}\npromotion: {written}\n"
        )
        made = Project.load(file).promotion
        assert (made.mode, made.expires) == (mode, expires)


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://me:s3/c@ret@db/j", "postgresql+psycopg://db/j?password=s3/c@ret"]
)
def test_a_password_is_used_and_never_told(tmp_path: Path, url: str) -> None:
    project = Project.load(write(tmp_path, journal={"url": url}, registry={"url": url}))
    assert project.journal_url == project.registry_url == url
    told = project.model_dump_json()
    assert told.count("***") == 2
    assert "c@ret" not in told
    for key in ("journal", "registry"):
        said = refusal(write(tmp_path, **{key: url}))
        assert f"{key}: Input should be a mapping of settings, got 'postgresql+psycopg://" in said
        assert "c@ret" not in said


@pytest.mark.parametrize(
    ("written", "kind", "rest"),
    [
        ("processes", "processes", {}),
        ({"kind": "processes", "workers": 2}, "processes", {"workers": 2}),
        ("dask://host:8786", "dask", {"url": "dask://host:8786"}),
        ("ray://host:10001", "ray", {"url": "ray://host:10001"}),
    ],
)
def test_a_runner_is_told_in_a_word_by_its_address_or_with_its_settings(
    tmp_path: Path, written: Any, kind: str, rest: dict[str, Any]
) -> None:
    made = Project.load(write(tmp_path, runner=written)).runner
    assert (made.kind, made.settings) == (kind, rest)
    assert Project.load(write(tmp_path), [f"runner={yaml.safe_dump(written).strip()}"]).runner == made


def test_candidates_are_built_by_the_loop_itself_unless_a_runner_is_named(tmp_path: Path) -> None:
    made = Project.load(write(tmp_path)).runner
    assert (made.kind, made.settings) == ("threads", {})


@pytest.mark.parametrize("trainer", sorted(discover.installed("trainers")))
def test_a_project_that_names_no_techniques_tries_those_that_its_trainer_suggests(tmp_path: Path, trainer: str) -> None:
    project = Project.load(write(tmp_path, model={"trainer": trainer}))
    space = space_of(project, runtimes_of(project))
    assert [name for name, _ in project.choices] == [choice.about.name for choice in space.choices]
    assert list(space.simple())
    assert not space.unused
    assert not [choice for choice in space.choices if choice.about.experimental]
    named = Project.load(write(tmp_path, model={"trainer": trainer}, optimize={"techniques": ["export"]}))
    assert named.choices == [("export", {})]


class Wordless:
    """A trainer that says nothing of itself."""

    name = "wordless"


def test_a_trainer_that_does_not_say_what_it_gives_is_named_with_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("wordless", f"{__name__}:Wordless", "trimtab.trainers")
    monkeypatch.setattr(discover, "installed", lambda kind: {"wordless": point})
    project = Project.load(write(tmp_path, model={"trainer": "wordless"}))
    with pytest.raises(
        PluginError, match=r"model.trainer 'wordless' does not say its task and gives; a trainer's class"
    ):
        assert project.choices
    with pytest.raises(SettingsError, match=r"optimize.techniques names nothing, and the trainer suggests nothing"):
        Space([])
