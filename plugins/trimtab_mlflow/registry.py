"""trimtab's registry on MLflow: rounds and candidates as runs, models as LoggedModels, versions and aliases."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, LoggedModelStatus, Metric, Param, Run, RunTag, ViewType
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from trimtab.address import masked
from trimtab.artifact import fill_folder, verify
from trimtab.errors import ArtifactError, InternalError, SettingsError
from trimtab.registry import CandidateLog, DatasetLog, RoundLog, Version, digests_of
from trimtab_mlflow.artifacts import use_fsspec
from trimtab_mlflow.datasets import dataset_input
from trimtab_mlflow.models import find_model, log_model
from trimtab_mlflow.server import (
    accepted,
    as_default,
    check_url,
    is_missing,
    is_served,
    open_client,
    probe,
    reports,
    sqlite_file,
)

__all__ = ["MlflowRegistry"]

OPERATION = "trimtab.operation"
OUTCOME = "trimtab.outcome"
COMPLETE = "trimtab.complete"
DIGEST = "sha256."
PACKAGE = "package"
REPORTS = "reports"
PARENT_RUN = "mlflow.parentRunId"
MODEL_VERSIONS = "mlflow.modelVersions"
CONTEXT = "mlflow.data.context"
ENDED = ("FINISHED", "FAILED", "KILLED")
BATCH = 100
PAGE = 1000


@dataclass(frozen=True)
class MlflowRegistry:
    """Keep rounds, candidates, versions and aliases in MLflow.

    A round is a run with its data as dataset inputs; its candidates are nested runs, each with its
    ONNX model as a LoggedModel that carries the metrics; a version is registered from a LoggedModel,
    whose artifacts hold the version's whole package in the folder ``package``.

    Parameters
    ----------
    url
        Tracking and registry address: ``sqlite:///trimtab.db``, another database, or a server's
        ``http://host:5000``.
    model
        Name of the registered model.
    experiment
        Name of the experiment that holds the runs; made on first use.
    artifacts
        Where a new experiment's files go when ``url`` is a database: a local folder, or an address
        that fsspec knows, such as ``s3://bucket/path``. By default the folder ``artifacts`` beside a
        SQLite file. A server decides that itself.

    Notes
    -----
    Every write is searched for by its operation id before it is made, and what marks it as done is
    written last: a run's end, a LoggedModel's status READY, a version's tag ``trimtab.complete``.
    Should two processes register the same operation at the same moment, the lower number counts.

    Examples
    --------
    >>> registry = MlflowRegistry(url="http://127.0.0.1:5000", model="digits", experiment="digits")
    >>> registry.links()["MLflow: versions of digits"]
    'http://127.0.0.1:5000/#/models/digits'
    """

    name: ClassVar[str] = "mlflow"

    url: str
    model: str
    experiment: str
    artifacts: str | None = None

    def __post_init__(self) -> None:
        use_fsspec()
        check_url(self.url)
        for setting, value in (("model", self.model), ("experiment", self.experiment)):
            if not re.fullmatch(r"[\w][\w .-]*", value):
                raise SettingsError(
                    f"registry.{setting} must be letters, digits, spaces and . _ -, starting with a letter or digit, "
                    f"got {value!r}; rename it"
                )
        if self.artifacts is None and not is_served(self.url) and sqlite_file(self.url) is None:
            raise SettingsError(
                f"registry.artifacts is needed with registry.url={masked(self.url)!r}, which holds no files; "
                "name a folder, or an address such as s3://bucket/path"
            )

    @reports
    def ready(self) -> None:
        """Check that MLflow answers (within about ten seconds), and make experiment and registered model."""
        probe(self.url)
        _ = self._experiment_id
        self._make_model()

    @reports
    def log_round(self, log: RoundLog) -> str:
        """Open (or find) the run of a round, with its data and reports, and return its id."""
        run = self._run_of(log.operation) or self._new_run(log.operation, log.name, log.tags)
        if run.info.status not in ENDED:
            self._log_params(run, log.params)
            self._log_inputs(run, [dataset_input(d) for d in _not_logged(run, log.datasets)])
            for page in log.reports:
                self._client.log_artifact(run.info.run_id, str(page), REPORTS)
        return str(run.info.run_id)

    @reports
    def log_candidate(self, round_id: str, log: CandidateLog) -> str:
        """Log (or find, or complete) a candidate's nested run, with its model and metrics, and return its id."""
        run = self._run_of(log.operation)
        if run is None:
            run = self._new_run(log.operation, log.name, {**log.tags, PARENT_RUN: round_id})
        if run.info.status in ENDED:
            return str(run.info.run_id)
        self._log_params(run, log.params)
        if not run.inputs.dataset_inputs:
            self._log_inputs(run, self._client.get_run(round_id).inputs.dataset_inputs)
        model_id = None if log.model is None else log_model(self._client, run, log, log.model)
        self._log_metrics(run, log.metrics, model_id)
        self._client.set_terminated(run.info.run_id, "FAILED" if log.failed else "FINISHED")
        return str(run.info.run_id)

    @reports
    def close_round(self, round_id: str, outcome: str, tags: Mapping[str, str]) -> None:
        """End the round's run with its outcome (the tag ``trimtab.outcome``)."""
        run = self._client.get_run(round_id)
        if run.info.status in ENDED:
            return
        self._set_tags(run, {**tags, OUTCOME: outcome})
        self._client.set_terminated(run.info.run_id, "FAILED" if outcome == "failed" else "FINISHED")

    @reports
    def create_version(
        self, candidate_id: str, operation: str, package: Path, tags: Mapping[str, str], description: str
    ) -> Version:
        """Register (or find, or complete) the version that ``operation`` creates.

        The package is uploaded first, the version is created with all its tags at once, and
        ``trimtab.complete`` is set last.

        Raises
        ------
        ArtifactError
            When the candidate has no completely logged model, or one that is already another
            version with other files.
        """
        found = self._version_of(operation)
        if found is not None and found.tags.get(COMPLETE) == "true":
            return _read(found)
        digests = digests_of(package)
        model_id = self._model_for(candidate_id, operation, digests)
        self._client.log_model_artifacts(model_id, str(package), PACKAGE)
        if found is None:
            self._make_model()
            marks = {OPERATION: operation, **{f"{DIGEST}{name}": digest for name, digest in digests.items()}}
            self._register(model_id, candidate_id, {**tags, **marks}, description)
            found = self._version_of(operation)
        if found is None:
            raise InternalError(f"the version of operation {operation!r} was created but is not found again")
        self._complete(model_id, found)
        return Version(int(found.version), operation, _ancestry(found.tags), digests)

    @reports
    def versions(self) -> list[Version]:
        """Return every complete version, oldest first; of two with one operation id only the first."""
        first: dict[str, Version] = {}
        for found in self._search_versions(f"name = '{self.model}'"):
            if found.tags.get(COMPLETE) == "true":
                first.setdefault(found.tags[OPERATION], _read(found))
        return list(first.values())

    @reports
    def fetch(self, number: int, folder: Path) -> Path:
        """Bring a version's package to ``folder``, check every digest, and return it.

        A folder that is there and whole is left alone; a damaged one is fetched again.
        """
        found = self._get_version(number)
        digests = _read(found).digests
        if folder.is_dir() and _whole(folder, digests):
            return folder
        with fill_folder(folder) as draft:
            self._download(found, draft)
            verify(draft, digests)
            if folder.is_dir() and not _whole(folder, digests):
                shutil.rmtree(folder)
        return folder

    @reports
    def alias(self, name: str) -> int | None:
        """Return the version that the alias names, or None (also before the first version)."""
        try:
            number = self._client.get_registered_model(self.model).aliases.get(name)
        except MlflowException as error:
            if not is_missing(error):
                raise
            return None
        return None if number is None else int(number)

    @reports
    def aliases_of(self, models: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return the versions that the aliases of each model name, in as few requests as may be."""
        probe(self.url)
        found = self._models() if len(models) > 1 else self._models(f"name = {_quoted(models[0])}")
        return {m.name: {a: int(n) for a, n in m.aliases.items()} for m in found if m.name in models}

    @reports
    def set_alias(self, name: str, number: int | None) -> None:
        """Point the alias at a version in one transaction, or remove it."""
        if number is not None:
            self._client.set_registered_model_alias(self.model, name, str(number))
        elif self.alias(name) is not None:
            self._client.delete_registered_model_alias(self.model, name)

    @reports
    def tag_version(self, number: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(self.model, str(number), key, value)

    def links(self) -> Mapping[str, str]:
        """Return the address of the model's page, or the command that shows a database."""
        if is_served(self.url):
            return {f"MLflow: versions of {self.model}": f"{masked(self.url).rstrip('/')}/#/models/{quote(self.model)}"}
        return {"MLflow UI": f"mlflow ui --backend-store-uri {masked(self.url)} --port 5000"}

    def _models(self, where: str | None = None) -> Iterator[RegisteredModel]:
        token: str | None = None
        while True:
            page = self._client.search_registered_models(where, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    @cached_property
    def _client(self) -> MlflowClient:
        return open_client(self.url)

    @cached_property
    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            _ignoring_existing(lambda: self._client.create_experiment(self.experiment, self._artifact_location()))
            found = self._client.get_experiment_by_name(self.experiment)
        if found.lifecycle_stage != "active":
            raise SettingsError(
                f"registry.experiment={self.experiment!r} was deleted in MLflow; restore it with "
                f"'mlflow experiments restore -x {found.experiment_id}', or name another"
            )
        return str(found.experiment_id)

    def _make_model(self) -> None:
        try:
            self._client.get_registered_model(self.model)
        except MlflowException as error:
            if not is_missing(error):
                raise
            _ignoring_existing(lambda: self._client.create_registered_model(self.model))

    def _artifact_location(self) -> str | None:
        if is_served(self.url):
            return None
        file = sqlite_file(self.url)
        place = self.artifacts or str((file or Path()).parent / "artifacts")
        return place if "://" in place else Path(place).absolute().as_uri()

    def _run_of(self, operation: str) -> Run | None:
        """Return the first run that carries ``operation``."""
        where = f"tags.`{OPERATION}` = {_quoted(operation)}"
        runs = self._client.search_runs(
            [self._experiment_id], where, ViewType.ACTIVE_ONLY, max_results=1, order_by=["attributes.start_time ASC"]
        )
        return runs[0] if runs else None

    def _new_run(self, operation: str, name: str, tags: Mapping[str, str]) -> Run:
        marks = {OPERATION: operation, "mlflow.source.name": "trimtab"}
        return self._client.create_run(self._experiment_id, tags={**accepted(tags), **marks}, run_name=name)

    def _log_params(self, run: Run, params: Mapping[str, str]) -> None:
        """Log the parameters that a crash kept from being logged; MLflow takes each one once."""
        new = [Param(k, str(v)) for k, v in accepted(params).items() if k not in run.data.params]
        for batch in _batches(new):
            self._client.log_batch(run.info.run_id, params=batch)

    def _log_metrics(self, run: Run, metrics: Mapping[str, float], model_id: str | None) -> None:
        """Log the metrics, linked to the model; at the run's start time, so that a second call adds no second point."""
        at = run.info.start_time
        new = {k: v for k, v in accepted(metrics).items() if k not in run.data.metrics}
        points = [Metric(k, float(v), at, 0, model_id=model_id) for k, v in new.items()]
        for batch in _batches(points):
            self._client.log_batch(run.info.run_id, metrics=batch)

    def _log_inputs(self, run: Run, inputs: Sequence[DatasetInput]) -> None:
        if inputs:
            self._client.log_inputs(run.info.run_id, list(inputs))

    def _set_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        for batch in _batches([RunTag(k, str(v)) for k, v in accepted(tags).items()]):
            self._client.log_batch(run.info.run_id, tags=batch)

    def _model_for(self, candidate_id: str, operation: str, digests: Mapping[str, str]) -> str:
        """Return the id of the LoggedModel that a new version is made of."""
        model = find_model(self._client, self._client.get_run(candidate_id))
        if model is None or model.status != LoggedModelStatus.READY:
            raise ArtifactError(
                f"candidate {candidate_id} has no completely logged model, so no version can be made of it; "
                "log it with its model first"
            )
        for other in self._search_versions(f"name = '{self.model}' and run_id = '{candidate_id}'"):
            if other.tags.get(OPERATION) != operation and _read(other).digests != digests:
                raise ArtifactError(
                    f"candidate {candidate_id} is already version {other.version} with other files; "
                    "log the model as a candidate of its own"
                )
        return str(model.model_id)

    def _register(self, model_id: str, run_id: str, tags: Mapping[str, str], description: str) -> None:
        def create() -> None:
            self._client.create_model_version(
                self.model, f"models:/{model_id}", run_id, dict(tags), description=description, model_id=model_id
            )

        if is_served(self.url):
            create()
            return
        with as_default(self.url):
            create()

    def _complete(self, model_id: str, found: ModelVersion) -> None:
        """Show the version on the LoggedModel's page, then mark it complete."""
        names = json.dumps([{"name": self.model, "version": found.version}])
        self._client.set_logged_model_tags(model_id, {MODEL_VERSIONS: names})
        self._client.set_model_version_tag(self.model, found.version, COMPLETE, "true")

    def _version_of(self, operation: str) -> ModelVersion | None:
        where = f"name = '{self.model}' and tags.`{OPERATION}` = {_quoted(operation)}"
        return next(iter(self._search_versions(where)), None)

    def _search_versions(self, where: str) -> list[ModelVersion]:
        """Return all matching versions, lowest number first."""
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self._client.search_model_versions(where, max_results=PAGE, page_token=token)
            found += page
            token = page.token
            if not token:
                return sorted(found, key=lambda v: int(v.version))

    def _get_version(self, number: int) -> ModelVersion:
        try:
            found = self._client.get_model_version(self.model, str(number))
        except MlflowException as error:
            if not is_missing(error):
                raise
            raise ArtifactError(
                f"version {number} of {self.model!r} is not registered at {masked(self.url)!r}; "
                "list the versions, and name one of them"
            ) from error
        if found.tags.get(COMPLETE) != "true":
            raise ArtifactError(
                f"version {number} of {self.model!r} is incomplete: its registration was interrupted; "
                "run the round again to complete it, or name another version"
            )
        return found

    def _download(self, found: ModelVersion, draft: Path) -> None:
        model_id = found.source.removeprefix("models:/")
        location = self._client.get_logged_model(model_id).artifact_location
        try:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location}/{PACKAGE}", dst_path=str(draft), tracking_uri=self.url
            )
        except (MlflowException, OSError) as error:
            if isinstance(error, MlflowException) and error.get_http_status_code() >= 500:
                raise
            raise ArtifactError(
                f"the files of version {found.version} are missing from {location}: {error}; "
                "restore the artifact store from its backup"
            ) from error
        for path in (draft / PACKAGE).iterdir():
            path.rename(draft / path.name)
        (draft / PACKAGE).rmdir()


def _read(found: ModelVersion) -> Version:
    digests = {k.removeprefix(DIGEST): v for k, v in found.tags.items() if k.startswith(DIGEST)}
    return Version(int(found.version), found.tags.get(OPERATION, ""), _ancestry(found.tags), digests)


def _ancestry(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that the caller gave, without the registry's own marks."""
    return {k: v for k, v in tags.items() if k not in (OPERATION, COMPLETE) and not k.startswith(DIGEST)}


def _whole(folder: Path, digests: Mapping[str, str]) -> bool:
    try:
        verify(folder, digests)
    except ArtifactError:
        return False
    return True


def _not_logged(run: Run, datasets: Iterable[DatasetLog]) -> list[DatasetLog]:
    done = {(i.dataset.name, tag.value) for i in run.inputs.dataset_inputs for tag in i.tags if tag.key == CONTEXT}
    return [d for d in datasets if (d.name, d.context) not in done]


def _ignoring_existing(create: Any) -> None:
    """Create something that another process may create at the same moment."""
    try:
        create()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _quoted(text: str) -> str:
    """Quote a value of MLflow's filter language, which knows no escapes.

    Examples
    --------
    >>> _quoted("promote:1")
    "'promote:1'"
    """
    if "'" in text and '"' in text:
        raise InternalError(f"operation id {text!r} holds both kinds of quotes; MLflow cannot search for it")
    return f'"{text}"' if "'" in text else f"'{text}'"


def _batches(values: Sequence[Any]) -> Iterable[list[Any]]:
    return (list(values[i : i + BATCH]) for i in range(0, len(values), BATCH))
