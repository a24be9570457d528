"""A version as it serves: loaded, verified, with its reference and the groups it was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trimtab.artifact import Model
from trimtab.monitor import Sample
from trimtab.runtime import Session, Setup
from trimtab.window import Schema

__all__ = ["Serving"]


@dataclass(frozen=True)
class Serving:
    """A version, loaded and verified, with what it was judged and fitted on.

    Parameters
    ----------
    version
        Its number in the registry.
    package
        Folder with its files.
    model
        The files that serve, in the runtime's format.
    schema
        Frozen when it was trained.
    setup
        The runtime that serves it, with its settings.
    session
        The model that serves, on one thread.
    parent
        The full float model that the next round starts from.
    lean
        The float model that the served one was converted from; the parent where nothing compressed it.
    reference
        Held-back rows through its eyes: what windows are compared with.
    fitted
        Groups that it and its ancestors were fitted or calibrated to (uint64, sorted); empty where each
        row is a group of its own.
    """

    version: int
    package: Path
    model: Model
    schema: Schema
    setup: Setup
    session: Session
    parent: Model
    lean: Model
    reference: Sample
    fitted: npt.NDArray[np.uint64]
