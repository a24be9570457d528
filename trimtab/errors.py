"""The error tree, so that a message, an exit code and a journal record follow from the type alone.

TrimtabError                 base; never raised itself
├── InputError               yours to mend; exit code 2
│   ├── SettingsError        a key or value of the project file
│   ├── DataError            rows, columns or labels of the source
│   └── PluginError          a plugin or factory that is missing, does not import or raises
├── ServiceError             a server that does not answer; exit code 3
├── OutOfTimeError           a step that gave up because the round's minutes were spent
├── ArtifactError            a stored file that is missing or differs from its digest; exit code 4
└── InternalError            ours to mend; exit code 70
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "ArtifactError",
    "DataError",
    "InputError",
    "InternalError",
    "OutOfTimeError",
    "PluginError",
    "ServiceError",
    "SettingsError",
    "TrimtabError",
    "nearest",
]


class TrimtabError(Exception):
    """Base of every error that trimtab raises on purpose.

    ``exit_code`` is what the command line ends with when the error reaches it.
    """

    exit_code: ClassVar[int] = 70


class InputError(TrimtabError):
    """Something that the user wrote or supplied; the message says what, the rule and the way out."""

    exit_code: ClassVar[int] = 2


class SettingsError(InputError):
    """A key or a value of the project file, the environment or ``--set``."""


class DataError(InputError):
    """Rows, columns or labels that the source gave."""


class ReadError(DataError):
    """A file that cannot be read: what its rows are like is not known."""


class PluginError(InputError):
    """A plugin, trainer or factory that is missing, does not import, or raised."""


class ServiceError(TrimtabError):
    """A server (MLflow, Prefect, a database) that did not answer."""

    exit_code: ClassVar[int] = 3


class OutOfTimeError(TrimtabError):
    """A step that gave up because the round's minutes were spent; what it had begun is not kept."""


class ArtifactError(TrimtabError):
    """A stored file that is missing, truncated or altered."""

    exit_code: ClassVar[int] = 4


class InternalError(TrimtabError):
    """A broken promise of trimtab's own."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to ``name``, or nothing.

    Examples
    --------
    >>> nearest("prunee", ["distill", "prune", "quantize"])
    " Did you mean 'prune'?"
    >>> nearest("zzz", ["prune"])
    ''
    """
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
