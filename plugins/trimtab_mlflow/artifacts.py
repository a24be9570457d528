"""MLflow's artifacts on any store that fsspec knows: one way to them all, whose failures say what failed."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from trimtab.address import masked
from trimtab.errors import PluginError, ServiceError

__all__ = ["StoredArtifacts", "use_fsspec"]

MLFLOWS_OWN = ("file", "local", "http", "https", "dbfs", "ftp", "dir", "root", "data")
"""Schemes that stay MLflow's, or are no stores."""


class StoredArtifacts(ArtifactRepository):  # type: ignore[misc]
    """The artifacts of a run or a model below an address such as ``s3://bucket/path``.

    Credentials come from the environment, as each store's library reads them: for S3
    ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, and ``AWS_ENDPOINT_URL`` for one that is not Amazon's.

    Parameters
    ----------
    artifact_uri
        The address.
    tracking_uri, registry_uri
        As MLflow hands them over; not used.

    Raises
    ------
    PluginError
        When the library of the store is not installed.
    ServiceError
        From every method, when the store does not answer or refuses.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = file.write_text("a")
    >>> stored = StoredArtifacts("memory://runs/1")
    >>> stored.log_artifact(str(file), "notes")
    >>> [(found.path, found.file_size) for found in stored.list_artifacts("notes")]
    [('notes/a.txt', 1)]
    """

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._shown = masked(artifact_uri)
        try:
            self._files, self._root = url_to_fs(artifact_uri)
        except (ImportError, ValueError) as error:
            raise PluginError(
                f"registry.artifacts {self._shown}: {error}; pip install 'trimtab[s3]' brings what s3:// needs, and "
                "each other store its own library (gcsfs, adlfs, ...)"
            ) from error

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store a file under its name in a folder."""
        with self._told(writing=True):
            self._files.put_file(local_file, self._at(artifact_path, Path(local_file).name))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store every file below a folder."""
        with self._told(writing=True):
            for file in sorted(p for p in Path(local_dir).rglob("*") if p.is_file()):
                self._files.put_file(str(file), self._at(artifact_path, file.relative_to(local_dir).as_posix()))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return what is in a folder; of a file, and of what is not there, nothing."""
        here = self._at(path)
        with self._told():
            self._files.invalidate_cache()  # others write too
            try:
                found = self._files.ls(here, detail=True)
            except FileNotFoundError:
                return []
        inside = [f for f in found if f["name"].rstrip("/").strip("/") != here.strip("/")]
        return sorted((self._info(f) for f in inside), key=lambda info: str(info.path))

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """Bring a file, or a folder with all in it, below ``dst_path``, and return where it lies.

        Raises
        ------
        FileNotFoundError
            When there is nothing under the path.
        """
        target = Path(dst_path or tempfile.mkdtemp())
        here = self._at(artifact_path)
        with self._told():
            self._files.invalidate_cache()
            names = self._files.find(here)
        if not names:
            raise FileNotFoundError(f"there is nothing at {self._shown}/{artifact_path}")
        for name in names:
            place = target / posixpath.relpath(name, self._at(None))
            place.parent.mkdir(parents=True, exist_ok=True)
            self._download(name, place)
        return str(target / artifact_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Remove a file or a folder, if it is there."""
        with self._told():
            if self._files.exists(self._at(artifact_path)):
                self._files.rm(self._at(artifact_path), recursive=True)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._download(self._at(remote_file_path), Path(local_path))

    def _download(self, name: str, place: Path) -> None:
        with self._told():
            self._files.get_file(name, str(place))

    def _at(self, *parts: str | None) -> str:
        return posixpath.join(self._root, *(part for part in parts if part))

    def _info(self, found: dict[str, Any]) -> FileInfo:
        folder = found["type"] == "directory"
        path = posixpath.relpath(found["name"].rstrip("/"), self._root)
        return FileInfo(path, folder, None if folder else found["size"])

    @contextmanager
    def _told(self, writing: bool = False) -> Iterator[None]:
        """Tell a store that failed from a file that is not there: the libraries below raise what they like."""
        try:
            yield
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not writing:
                raise
            said = (str(error).strip().splitlines() or ["no more was said"])[0]
            raise ServiceError(
                f"the store at {self._shown} failed ({type(error).__name__}: {masked(said)}); see whether it runs, "
                "and whether the environment has its address and credentials"
            ) from error


def use_fsspec() -> None:
    """Let MLflow reach through fsspec whatever fsspec knows, in this process; a server's own MLflow stays as it is."""
    for scheme in fsspec.available_protocols():
        if scheme not in MLFLOWS_OWN and "::" not in scheme:
            _artifact_repository_registry.register(scheme, StoredArtifacts)
