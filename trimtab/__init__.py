"""trimtab keeps a deployed model accurate, small and fast while its data moves."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
