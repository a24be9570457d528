"""Keeps OpenVINO and NNCF from sending their usage home, and from leaving an identity for it in the user's folder."""

from __future__ import annotations

import sys

__all__ = ["silence"]

TELEMETRY = "openvino_telemetry"


def silence() -> None:
    """Make ``openvino_telemetry`` unavailable to this process; both libraries then do without it.

    Neither has a switch that covers all of it: ``import openvino`` by itself lays down an identity and
    counts the import, and NNCF's ``NNCF_CI`` is read after its own identity was made. Where the package
    was imported before trimtab, its sender is emptied instead.
    """
    if sys.modules.get(TELEMETRY) is None:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment] # how Python spells "not to be imported"
    else:
        sys.modules[f"{TELEMETRY}.utils.sender"].TelemetrySender.send = _nothing


def _nothing(*_: object) -> None:
    """Send nothing."""
