"""Targets that a model must be fast on, and the runtimes that load it there."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from trimtab import discover
from trimtab.artifact import Model
from trimtab.window import Arrays

__all__ = ["CHAMPION", "Runtime", "Session", "Setup", "Target"]

CHAMPION = "champion"
"""Alias of the champion on the first target; on target ``edge`` it is ``champion-edge``."""


@dataclass(frozen=True)
class Setup:
    """A runtime with its settings.

    Parameters
    ----------
    runtime
        Its name.
    settings
        What it is made with.

    Examples
    --------
    >>> Setup("openvino", {"cache": True}).word
    'openvino(cache=True)'
    """

    runtime: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """How a person reads it; equal setups have equal words."""
        inner = ", ".join(f"{k}={v}" for k, v in sorted(self.settings.items()))
        return f"{self.runtime}({inner})" if inner else self.runtime

    @property
    def slug(self) -> str:
        """A short text for the name of a file."""
        return hashlib.sha256(self.word.encode()).hexdigest()[:12]

    def made_with(self, factory: str | None) -> dict[str, Any]:
        """Return all that the runtime is made with.

        Parameters
        ----------
        factory
            That the project names, for a runtime that rebuilds the network itself.
        """
        fields = inspect.signature(discover.find("runtimes", self.runtime)).parameters
        return {**({"factory": factory} if "factory" in fields else {}), **self.settings}

    def make(self, where: str, factory: str | None = None) -> Runtime:
        """Make the runtime; ``where`` is how the project file calls its settings, for messages."""
        if self.runtime not in discover.installed("runtimes"):
            discover.build("runtimes", self.runtime, {}, where)  # says what is installed
        runtime: Runtime = discover.build("runtimes", self.runtime, self.made_with(factory), where)
        return runtime


def _several(value: object) -> object:
    return [value] if isinstance(value, str | Mapping) else value


class Target(BaseModel):
    """What a model must be fast on, and what it may cost there.

    Parameters
    ----------
    name
        Distinguishes the targets of a project: the alias of its champion is ``champion-NAME``. The
        first target needs none, its alias is ``champion``.
    runtime
        Name of an installed runtime, or one name with a mapping of its settings; several in a list
        are all tried, and the winner says which.
    threads
        Threads that one call may use.
    batch
        Rows in one call.
    max_p50_ms, max_p99_ms
        Longest median and 99th percentile of one call, in milliseconds.
    max_size_mb, max_peak_mb
        Largest size on disk, and largest memory that loading and calling take, in megabytes (10^6 bytes).
    max_quality_drop
        Instead of ``gate.max_quality_drop``, on this target.
    prefer
        Which of the candidates that pass wins: the fastest, the smallest, the one that takes the least
        energy, or the one of the highest quality.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]*$")
    runtime: Annotated[tuple[str | dict[str, dict[str, Any] | None], ...], BeforeValidator(_several)] = Field(
        default=("onnxruntime",), min_length=1
    )
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    max_p50_ms: float | None = Field(default=None, gt=0)
    max_p99_ms: float | None = Field(default=None, gt=0)
    max_size_mb: float | None = Field(default=None, gt=0)
    max_peak_mb: float | None = Field(default=None, gt=0)
    max_quality_drop: float | None = Field(default=None, ge=0, lt=1)
    prefer: Literal["speed", "size", "energy", "quality"] = "speed"

    @property
    def setups(self) -> tuple[Setup, ...]:
        """The runtimes that may serve, with their settings."""
        pairs = [(r, None) if isinstance(r, str) else next(iter(r.items())) for r in self.runtime]
        return tuple(Setup(name, dict(settings or {})) for name, settings in pairs)

    @field_validator("runtime", mode="after")
    @classmethod
    def _names_and_settings(cls, value: tuple[str | dict[str, Any], ...]) -> tuple[str | dict[str, Any], ...]:
        if any(not isinstance(r, str) and len(r) != 1 for r in value):
            raise ValueError("a runtime is a name, or one name with a mapping of its settings, such as openvino: {}")
        return value


class Session(Protocol):
    """A loaded model."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return the main output by its name and, where it has one, ``embedding`` (float32 ``[rows, width]``).

        The main output is ``probabilities`` (float32 ``[rows, classes]``) or, in a regression,
        ``predictions`` (float32 ``[rows, 1]``).
        """
        ...

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Return the main output alone: what serving calls and what is timed."""
        ...


class Runtime(Protocol):
    """Loads models for a target.

    A frozen dataclass whose fields are its settings. ``takes`` names the formats that it loads.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]]

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> Session:
        """Load a model.

        Parameters
        ----------
        threads
            Threads that one call may use.
        batch
            Rows of the calls that must be fast; calls of other sizes work too.

        Raises
        ------
        ArtifactError
            When the file cannot be loaded.
        """
        ...
