"""The page about a window: what it tells, that it needs neither rows nor network, and how a browser shows it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests import fakes
from tests.browser import Browser, chromium, needs_browser
from trimtab import cli, loop
from trimtab.errors import InputError
from trimtab.monitor import Answer
from trimtab.page import Page, page_of, write
from trimtab.parts import Parts
from trimtab.trigger import Action

HOSTILE = '</style><script>document.title = "taken"</script> $x_1$'
LEVELS = ('<img src="https://example.com/x.png">', "plain", "& other")
CHANGES = {
    "features": {"a": {}, "b": {}, "c": {}, HOSTILE: {}, "kind": {"kind": "categorical"}},
    "monitors": {"use": ["guard", "evidently.drift", "accuracy"], "evidently.drift": {"joint": False}},
    "optimize": {"techniques": ["recentre", "convert"]},
}


def rows(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    levels = rng.choice(np.array(LEVELS, dtype=object), len(frame))
    return frame.assign(**{HOSTILE: rng.normal(size=len(frame)), "kind": levels})


def stream() -> str:
    """Two quiet windows, one whose rows are broken, two that moved, and after the round a quiet one."""
    parts = [fakes.quiet(400, 0), fakes.quiet(200, 1), fakes.broken(200, 2), fakes.moved(200, 3), fakes.moved(200, 4)]
    return fakes.stream("told", *(rows(frame, seed) for seed, frame in enumerate(parts)))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fakes.World]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        world = fakes.World(tmp_path_factory.mktemp("project") / "home", stream(), CHANGES)
        list(loop.watch(world.process(), replay=True))
        fakes.STREAMS["told"] = fakes.STREAMS["told"].head(0)  # from here on there are no rows to read again
        yield world


@pytest.fixture(scope="module")
def parts(there: fakes.World) -> Parts:
    return there.process()


@pytest.fixture(scope="module")
def told(parts: Parts) -> Page:
    return page_of(parts, 3)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_the_columns_are_told_by_importance_and_which_moved_since_when(told: Page) -> None:
    names = [shown.figure.name for shown in told.columns]
    assert set(names) == {*CHANGES["features"], "confidence"}
    shares = [shown.importance for shown in told.columns if shown.importance is not None]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0)
    assert names[0] == "a"
    assert names[-1] == "confidence"
    moved = {shown.figure.name: shown.since for shown in told.columns if shown.moved}
    assert {"a": 2, "c": 3}.items() <= moved.items()
    assert "b" not in moved
    assert HOSTILE not in moved


def test_the_history_has_every_window_with_its_answers_action_round_and_quality(told: Page) -> None:
    assert [past.record.number for past in told.history] == [1, 2, 3, 4]
    said = [{f.answer for f in past.findings.values()} for past in told.history]
    assert said[0] == {Answer.FINE}
    assert said[1] >= {Answer.BROKEN, Answer.MOVED}
    assert {Answer.WORSE, Answer.MOVED} <= said[2]
    actions = [past.record.action for past in told.history]
    assert actions[:3] == [Action.IGNORE, Action.QUARANTINE, Action.OPTIMIZE]
    assert [r.outcome for r in told.history[2].rounds] == ["promoted"]
    assert [p.version for p in told.history[2].promotions] == [2]
    assert set(told.history[3].qualities) == {1, 2}
    assert told.history[1].qualities == {}


def test_a_page_is_written_where_something_alarms_and_kept_with_the_round_that_follows(
    there: fakes.World, parts: Parts
) -> None:
    written = {detail["window"]: Path(detail["path"]) for _, _, detail in parts.journal.records("report")}
    assert {2, 3} <= set(written)
    assert 1 not in written
    assert all(path.is_file() for path in written.values())
    logged = [[path.name for path in log.reports] for log in there.registry.rounds.values()]
    assert logged == [[], ["window-2.html", "window-3.html"]]


def test_a_broken_window_has_a_page_with_what_can_be_read_of_it(parts: Parts) -> None:
    page = page_of(parts, 2)
    missing = {shown.figure.name: shown.figure.missing[1] for shown in page.columns}
    assert missing["a"] == 1.0
    assert missing["b"] == 0.0
    assert page.window.record.action is Action.QUARANTINE


def test_what_was_torn_is_told_and_the_rest_is_shown(there: fakes.World, tmp_path: Path) -> None:
    parts = there.process()
    (kept,) = parts.folder.glob("sketches/v1/window-3-*.npz")
    whole = kept.read_bytes()
    try:
        kept.write_bytes(whole[: len(whole) // 2])
        page = page_of(parts, 3)
    finally:
        kept.write_bytes(whole)
    assert page.columns == ()
    assert str(kept) in page.notes[0]
    assert len(page.history) == 4


def test_a_window_that_was_not_looked_at_has_no_page(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="window 9 was not looked at; windows 1 to 4 were"):
        write(parts, 9, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_page_and_says_where(
    there: fakes.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "p.yaml"
    config.write_text(
        yaml.safe_dump(json.loads(json.dumps(fakes.settings(there.home, "told", **CHANGES), default=str)))
    )
    with pytest.raises(SystemExit) as end:
        cli.main(["report", str(config), "3", "--out", str(tmp_path / "deep" / "page.html")])
    assert not end.value.code
    assert capsys.readouterr().out.strip() == str(tmp_path / "deep" / "page.html")
    text = (tmp_path / "deep" / "page.html").read_text()
    assert text.count("<svg") == 6  # four columns of numbers, the confidence, and the quality
    assert "<script" not in text
    assert len(text) < 200_000


@needs_browser
@pytest.mark.parametrize("width", [400, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_complaint_and_asks_for_nothing(
    parts: Parts, browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    page = write(parts, 3, tmp_path / "page.html")
    browser.open(page, width, scheme)
    assert browser.complaints() == []
    assert {address for address in browser.requests() if not address.startswith("data:")} == {page.as_uri()}
    assert browser.ask("document.title") == "p, window 3"
    assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.ask("document.images.length + document.scripts.length") == 0
    headings = browser.ask("[...document.querySelectorAll('article h3')].map(e => e.textContent)")
    assert set(headings) == {*CHANGES["features"], "confidence"}
    levels = browser.ask("[...document.querySelectorAll('.levels td:first-child')].map(e => e.textContent)")
    assert set(levels) == set(LEVELS)
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    lightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")) / 3
    assert lightness > 200 if scheme == "light" else lightness < 60
    small = browser.ask(
        "Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height))"
    )
    assert small >= 8


@needs_browser
def test_the_browser_would_have_told(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>nothing()</script>')
    browser.open(page, 400)
    assert any("nothing is not defined" in message for message in browser.complaints())
    assert "http://127.0.0.1:9/x.png" in browser.requests()
