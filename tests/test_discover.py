"""Finding plugins: a stranger's like our own, and what is told about one that is missing or broken."""

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests import fakes
from trimtab import discover
from trimtab.errors import PluginError, SettingsError

MODULE = """
    from dataclasses import dataclass
    from typing import Literal

    @dataclass(frozen=True)
    class Shrink:
        ratio: float = 0.5
        how: Literal["fast", "slow"] = "fast"

        def __post_init__(self):
            if not 0 <= self.ratio < 1:
                raise ValueError(f"shrink.ratio must be in [0, 1), got {self.ratio}")

    class Store:
        def __init__(self, url, model="m"):
            if url == "nowhere":
                raise ValueError("url must be somewhere, got nowhere")
            self.url, self.model = url, model

    class Bare:
        pass
"""
POINTS = {
    "techniques": {"shrink": "Shrink"},
    "registries": {"store": "Store"},
    "runtimes": {"bare": "Bare", "gone": "Gone"},
}


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path) -> Iterator[None]:
    """A distribution of somebody else's with a module of its own."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "stranger_plugin.py").write_text(dedent(MODULE))
    with fakes.installed(site, POINTS, "stranger_plugin"):
        info = site / "trimtab_fakes-1.0.dist-info"
        with (info / "entry_points.txt").open("a") as file:
            file.write("[trimtab.monitors]\nheavy = stranger_absent:Heavy [heavy]\nlost = stranger_absent:Lost\n")
        discover.installed.cache_clear()
        yield
    sys.modules.pop("stranger_plugin", None)


def test_a_strangers_plugin_is_found_and_made_like_our_own() -> None:
    shrink = discover.build("techniques", "shrink", {"ratio": 0.25}, "optimize.techniques.shrink")
    assert (type(shrink).__name__, shrink.ratio, shrink.how) == ("Shrink", 0.25, "fast")
    assert {"shrink", "finetune", "export"} <= set(discover.installed("techniques"))


def test_every_plugin_of_ours_is_there_and_imports() -> None:
    ours = [
        (kind, name)
        for kind in discover.KINDS
        for name, point in discover.installed(kind).items()
        if point.value.startswith("trimtab")
    ]
    assert len(ours) > 15
    for kind, name in ours:
        assert discover.find(kind, name) is not None


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("techniques", "shrnk", r"no technique named 'shrnk'; installed: .*shrink.* Did you mean 'shrink'\?"),
        ("registries", "stor", r"no registry named 'stor'; installed: mlflow, store\. Did you mean 'store'\?"),
        ("samplers", "any", r"no sampler named 'any'; installed: grid, nsga2, random, tpe\."),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(kind: discover.Kind, name: str, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        discover.find(kind, name)


def test_a_plugin_whose_library_is_missing_names_the_extra_to_install() -> None:
    with pytest.raises(PluginError, match=r"monitor 'heavy' .* does not import: .*pip install 'trimtab\[heavy\]'"):
        discover.find("monitors", "heavy")
    with pytest.raises(PluginError, match=r"monitor 'lost' .* does not import: .*; install what it imports"):
        discover.find("monitors", "lost")


def test_an_entry_point_whose_class_is_gone_is_told() -> None:
    with pytest.raises(PluginError, match=r"runtime 'gone' \(stranger_plugin:Gone\)"):
        discover.find("runtimes", "gone")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratoi": 0.5}, r"at\.it: unknown setting 'ratoi'; shrink has ratio, how\. Did you mean 'ratio'\?"),
        ({"ratio": 2}, r"at\.it: shrink\.ratio must be in \[0, 1\), got 2"),
        ({"ratio": "half"}, r"at\.it\.ratio: .* got 'half'"),
        ({"how": "quick"}, r"at\.it\.how: .*'fast' or 'slow', got 'quick'"),
    ],
)
def test_a_wrong_setting_is_told_where_it_stands(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        discover.build("techniques", "shrink", settings, "at.it")


def test_a_plugin_need_not_be_a_dataclass() -> None:
    assert discover.build("registries", "store", {"url": "here"}, "registry").model == "m"
    with pytest.raises(SettingsError, match=r"registry: unknown setting 'ulr'; store has url, model\."):
        discover.build("registries", "store", {"ulr": "here"}, "registry")
    with pytest.raises(SettingsError, match="registry: url must be somewhere, got nowhere"):
        discover.build("registries", "store", {"url": "nowhere"}, "registry")
    assert type(discover.build("runtimes", "bare", {}, "targets")).__name__ == "Bare"


# the user's own code


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[None]:
    """A folder on the path, as the project file's is."""
    (tmp_path / "my_nets_of_test.py").write_text("class SmallNet:\n    pass\n")
    (tmp_path / "my_broken_of_test.py").write_text("raise RuntimeError('not today')\n")
    sys.path.insert(0, str(tmp_path))
    yield
    sys.path.remove(str(tmp_path))
    for name in ("my_nets_of_test", "my_broken_of_test"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("beside")
def test_a_module_on_the_path_is_found() -> None:
    assert discover.load_object("my_nets_of_test:SmallNet", "model.factory").__name__ == "SmallNet"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("my_nets_of_test", "model.factory: 'my_nets_of_test' is not of the form 'module:name'"),
        (":SmallNet", "is not of the form 'module:name'"),
        ("my_nets_of_test:SmalNet", r"has no 'SmalNet'. Did you mean 'SmallNet'\?"),
        ("my_nest_of_test:SmallNet", r"does not import \(ModuleNotFoundError: .*put the file beside the project file"),
        ("my_broken_of_test:Net", r"does not import \(RuntimeError: not today\)"),
    ],
)
@pytest.mark.usefixtures("beside")
def test_a_reference_that_cannot_be_loaded_is_told(reference: str, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        discover.load_object(reference, "model.factory")
