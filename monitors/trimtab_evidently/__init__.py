"""Monitors: whether the data is broken, has moved (through Evidently), or the champion got worse."""

from __future__ import annotations

import os

__all__: list[str] = []

os.environ.setdefault("DO_NOT_TRACK", "1")  # Evidently reads it while it imports, and would report home
