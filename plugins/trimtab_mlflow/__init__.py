"""Tracking and model registry on MLflow; it sends nothing home and prints nothing unless you ask it to."""

from __future__ import annotations

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# MLflow reads these at import or at each request. Yours win: the defaults of MLflow print progress,
# and wait about four minutes for a server that is gone.
for _name, _value in (
    ("MLFLOW_LOGGING_LEVEL", "ERROR"),
    ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
    ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "30"),
):
    os.environ.setdefault(_name, _value)

from trimtab_mlflow.registry import MlflowRegistry  # noqa: E402  (the settings above come first)

__all__ = ["MlflowRegistry"]
