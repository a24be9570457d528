"""Models and other artifacts as files with a digest: what steps hand to each other, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ArtifactError

__all__ = ["Model", "fill_folder", "read_json", "sha256_file", "sha256_folder", "verify", "write_json"]

FLOAT = "torch"
"""What parents are stored in, unless their trainer gives another format."""
ONNX = "onnx"
OPENVINO = "openvino"


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of one file, read in blocks of 1 MiB."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def sha256_folder(folder: Path) -> str:
    """Return one digest over the relative names and contents of every file below ``folder``."""
    sha = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sha.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return sha.hexdigest()


def verify(folder: Path, digests: Mapping[str, str]) -> None:
    """Check every file named in ``digests`` (relative name to SHA-256) below ``folder``.

    Raises
    ------
    ArtifactError
        Naming the first file that is missing or differs.
    """
    for name, expected in sorted(digests.items()):
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{name} is missing from {folder}; restore the artifact store from its backup")
        if (found := sha256_file(path)) != expected:
            raise ArtifactError(
                f"{name} in {folder} has SHA-256 {found[:12]}…, registered as {expected[:12]}…: "
                "the file was truncated or altered; restore it, or roll back to another version"
            )


def write_json(path: Path, value: object) -> None:
    """Write JSON through a temporary file, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file; an unreadable one is an :class:`ArtifactError` that names it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}") from error


@contextmanager
def fill_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder elsewhere and move it into place at the end: it exists whole or not at all.

    When two fill the same folder the first to finish wins and the other's work is dropped.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "step"
    >>> with fill_folder(place) as draft:
    ...     _ = (draft / "a.txt").write_text("a")
    >>> [p.name for p in place.iterdir()]
    ['a.txt']
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir()
    try:
        yield draft
        for path in draft.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@dataclass(frozen=True)
class Model:
    """A model as a folder of files in one format, with its digest.

    Parameters
    ----------
    folder
        Where its files lie.
    format
        ``"torch"`` (``model.safetensors`` + ``spec.json``: trainable, float), ``"onnx"``
        (``model.onnx``: raw row in, prediction out), or another that a plugin names.
    digest
        SHA-256 over the folder, from :func:`sha256_folder`.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "model.onnx").write_bytes(b"...")
    >>> Model.at(folder, "onnx").size_bytes
    3
    """

    folder: Path
    format: str
    digest: str

    @classmethod
    def at(cls, folder: Path, format: str) -> Model:
        """Describe the model whose files lie in ``folder``."""
        if not folder.is_dir():
            raise ArtifactError(f"no model in {folder}: the folder does not exist")
        return cls(folder, format, sha256_folder(folder))

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of what serves it (for ONNX the graph and its external data)."""
        names = "model.onnx*" if self.format == ONNX else "*"
        return sum(p.stat().st_size for p in self.folder.rglob(names) if p.is_file())

    @property
    def facts(self) -> dict[str, Any]:
        """What the technique that made it reports (channels as they came out, ...); ``facts.json`` or nothing."""
        path = self.folder / "facts.json"
        return dict(read_json(path)) if path.is_file() else {}
