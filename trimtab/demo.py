"""The demo: a stream of handwritten digits whose scanner is replaced, watched from the first window to the last."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

from trimtab.artifact import fill_folder, read_json, write_json
from trimtab.errors import ArtifactError

__all__ = ["Demo", "Stage", "set_stage"]


class Demo(Protocol):
    """Writes a demo's data; its project file lies beside it in its package, under the same name."""

    def __call__(self, folder: Path, seed: int) -> None:
        """Write the stream's files into ``folder``."""
        ...


@dataclass(frozen=True)
class Stage:
    """A demo that is ready to run.

    Parameters
    ----------
    config
        Its project file.
    overrides
        What is set beside it.
    story
        Whether it continues or starts afresh, in words.
    """

    config: Path
    overrides: tuple[str, ...]
    story: str
    marker: Path

    def finish(self) -> None:
        """Remember that it ran to its end."""
        write_json(self.marker, read_json(self.marker) | {"done": True})


def set_stage(write_stream: Demo, package: str, home: Path, seed: int) -> Stage:
    """Write the demo's data and project file, or find them from a run that was cut off.

    Parameters
    ----------
    write_stream
        Writes the data.
    package
        The package that holds ``digits.yaml``.
    home
        The demo project's home; its contents are the demo's own.
    seed
        Of the data and of everything after.
    """
    marker = home / "demo.json"
    story = _story(marker, seed)
    if not story.startswith("continuing"):
        _clear(home)
        with fill_folder(home / "data") as draft:
            write_stream(draft, seed)
        (home / "digits.yaml").write_text(resources.files(package).joinpath("digits.yaml").read_text())
        write_json(marker, {"seed": seed, "done": False})  # last: without it the next start begins anew
    overrides = (
        f"seed={seed}",
        f"home={home}",
        f"source.path={home / 'data' / 'stream' / '*.parquet'}",
        f"data.golden={home / 'data' / 'golden.parquet'}",
    )
    return Stage(home / "digits.yaml", overrides, story, marker)


def _story(marker: Path, seed: int) -> str:
    if not marker.is_file():
        return f"starting afresh with seed {seed}: no demo has run in this folder"
    try:
        left = read_json(marker)
    except ArtifactError:
        return f"starting afresh with seed {seed}: what an earlier demo left cannot be read"
    if left["done"]:
        return f"starting afresh with seed {seed}: the last demo ran to its end"
    if left["seed"] != seed:
        return f"starting afresh with seed {seed}: the demo that was cut off had seed {left['seed']}"
    return f"continuing the demo that was cut off (seed {seed})"


def _clear(home: Path) -> None:
    """Take an old demo out of the way in one step, so that being cut off here leaves no half of one."""
    for old in home.parent.glob(f".{home.name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    if home.exists():
        aside = home.with_name(f".{home.name}-{uuid.uuid4().hex[:8]}")
        home.rename(aside)
        shutil.rmtree(aside)
