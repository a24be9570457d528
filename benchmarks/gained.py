"""What each technique gave, as the lines of a table: for the console, and for the documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
CONTENDED = "~"
"""Stands before a speed whose interval is too wide to say anything."""


def head(ground: Row) -> list[str]:
    """Return the titles of the columns."""
    speeds = [f"{runtime} {batch}" for runtime in ground["size_bytes"] for batch in ground["batches"]]
    return ["recipe", "accuracy", *speeds, "bytes", "minutes"]


def lines(ground: Row) -> Iterator[list[str]]:
    """Yield the cells of every recipe that was built, in the order of their names.

    Accuracy is the change against the float network with its interval, in the first runtime that serves
    the result, and so are the bytes; speeds are times as fast as the float network in the same runtime.
    """
    for name, row in sorted(ground["rows"].items()):
        served = {runtime: found for runtime, found in row.get("runtimes", {}).items() if "refused" not in found}
        if not served:
            continue
        first = served[next(r for r in ground["size_bytes"] if r in served)]
        speeds = [_speed(served.get(r), batch) for r in ground["size_bytes"] for batch in ground["batches"]]
        yield [name, _change(first["accuracy"]), *speeds, f"{first['size_ratio']:.2f}", f"{row['seconds'] / 60:.1f}"]


def refusals(ground: Row) -> Iterator[tuple[str, str]]:
    """Yield what could not be built, or what a runtime could not serve, with the reason."""
    for name, row in sorted(ground["rows"].items()):
        if "refused" in row:
            yield name, row["refused"]
        for runtime, found in row.get("runtimes", {}).items():
            if "refused" in found:
                yield f"{name} on {runtime}", found["refused"]


def sentences(blocks: Row) -> Iterator[str]:
    """Yield, for each seed, how a network of searched blocks came out beside a pruned one."""
    for seed, found in blocks.items():
        if "refused" in found:
            yield f"seed {seed}: {found['refused']}"
            continue
        speed, gain = found["speedup"], _change(found["gain"])
        words = f"{found['recipe']} beside {found['pruned']}, {found['epochs']} epochs each"
        yield f"seed {seed}: {words}: accuracy {gain}, {speed['value']:.2f} times as fast"


def _change(gain: Row) -> str:
    value, low, high = (gain[key] for key in ("value", "low", "high"))
    return f"{value:+.3f}" if low is None or high is None else f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _speed(found: Row | None, batch: int) -> str:
    if found is None:
        return ""
    speed = found["speed"][str(batch)]
    return f"{CONTENDED if speed['contended'] else ''}{speed['speedup']['value']:.2f}"


def markdown(ground: Row) -> str:
    """Return the table, and what is not in it with the reasons."""
    titles = head(ground)
    rows: Sequence[Sequence[str]] = [titles, ["---"] * len(titles), *([f"`{c[0]}`", *c[1:]] for c in lines(ground))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    left = "\n".join(f"- `{name}`: {reason}" for name, reason in refusals(ground))
    return f"{table}\n\n{left}" if left else table
