"""A model together with what loads it: all that another process needs to load it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab import discover
from trimtab.artifact import Model
from trimtab.runtime import Session, Setup

__all__ = ["Loadable"]


@dataclass(frozen=True)
class Loadable:
    """A model's files, and the runtime that loads them.

    Parameters
    ----------
    runtime
        Name of an installed runtime.
    model
        To load.
    settings
        Of the runtime; what JSON can hold.
    """

    runtime: str
    model: Model
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A short text for the name of a file; equal models on equal runtimes have equal ones."""
        return f"{self.model.digest[:32]}-{Setup(self.runtime, self.settings).slug}"

    def load(self, threads: int, batch: int) -> Session:
        """Load the model afresh.

        Raises
        ------
        PluginError, SettingsError
            When there is no such runtime, or its settings are wrong.
        ArtifactError
            When the model does not load.
        """
        runtime = discover.build("runtimes", self.runtime, self.settings, f"targets.runtime.{self.runtime}")
        session: Session = runtime.load(self.model, threads, batch)
        return session

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` takes."""
        model = {"folder": str(self.model.folder.absolute()), "format": self.model.format, "digest": self.model.digest}
        return {"runtime": self.runtime, "settings": dict(self.settings), "model": model}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Loadable:
        """Return what :meth:`to_json` described."""
        model = plain["model"]
        return cls(plain["runtime"], Model(Path(model["folder"]), model["format"], model["digest"]), plain["settings"])
