"""Are the numbers that Prometheus has fresh? The exporter answers, and what scrapes it has scraped it lately."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from trimtab.doctor import Check
from trimtab.settings import Project

__all__ = ["examine"]

ANSWER_SECONDS = 30.0
STALE_SECONDS = 120.0
SCRAPED = "timestamp(trimtab_registry_up)"


def examine(projects: Mapping[Path, Project], addresses: Mapping[str, str]) -> Iterator[Check]:
    """Try the exporter, and Prometheus where it is up."""
    exporter, prometheus = addresses.get("exporter"), addresses.get("prometheus")
    what = "the exporter tells of every project"
    if exporter is None:
        yield Check(what, "none is up: trimtab up CONFIG starts one, or trimtab metrics CONFIG")
        return
    yield Check(what, _told(exporter, projects))
    if prometheus is not None:
        yield Check("Prometheus has fresh numbers", _fresh(prometheus))


def _told(exporter: str, projects: Mapping[Path, Project]) -> str | None:
    try:
        text = _get(exporter)
    except (OSError, HTTPException) as error:
        return f"{exporter} does not answer ({error}); see whether it runs"
    told = {
        sample.labels["project"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "trimtab_registry_up" and sample.value == 1
    }
    missing = sorted({p.name for p in projects.values()} - told)
    return f"of {', '.join(missing)} it reaches no registry, or does not know" if missing else None


def _fresh(prometheus: str) -> str | None:
    way = "see the page /targets of Prometheus, and whether the exporter runs"
    try:
        asked = urllib.parse.urlencode({"query": f"time() - {SCRAPED}"})
        found = json.loads(_get(f"{prometheus}/api/v1/query?{asked}"))
        if found["data"]["result"]:
            return None
        asked = urllib.parse.urlencode({"query": f"max_over_time({SCRAPED}[1d:1m])"})
        before: list[Any] = json.loads(_get(f"{prometheus}/api/v1/query?{asked}"))["data"]["result"]
    except (OSError, HTTPException) as error:
        return f"{prometheus} does not answer ({error}); see whether it runs"
    if not before:
        return f"it has none of trimtab's at all: {way}"
    age = time.time() - max(float(series["value"][1]) for series in before)
    return f"the last scrape was {age:.0f} s ago: {way}"


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 (an address of the stack)
        return str(answer.read().decode())
