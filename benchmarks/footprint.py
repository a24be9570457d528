"""What a window larger than memory costs: the peak of a fresh process, and how time grows with rows and columns.

A window is written by one process and looked at by another, which imports, fits the reference, streams every row and
gives the verdict. Run as a script with a folder it is that other process.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from streams import generated
from telling import Figures, Ground, Told

from trimtab.files import ParquetSource
from trimtab.monitor import Case
from trimtab.sections import MonitorsSettings
from trimtab.survey import survey
from trimtab_evidently.drift import Drift

ROW_GROUP = 1 << 20
REFERENCE = 50_000
MIB = 1 << 20
COLUMNS = 25
LARGE = 20_000_000
ROWS = (1_000_000, 5_000_000, LARGE)
QUICK_ROWS = (1_000_000, 2_000_000, 4_000_000)
WIDE = (25, 100, 400)
WIDE_ROWS = 200_000
TIMES = 3


def write(folder: Path, rows: int, columns: int, seed: int) -> None:
    """Write a reference and a window of so many rows, in groups as pandas writes them."""
    stream, rng = generated(columns), np.random.default_rng(seed)
    stream.draw(rng, REFERENCE).to_parquet(folder / "reference.parquet")
    writer: pq.ParquetWriter | None = None
    for first in range(0, rows, ROW_GROUP):
        table = pa.Table.from_pandas(stream.draw(rng, min(ROW_GROUP, rows - first)), preserve_index=False)
        writer = writer or pq.ParquetWriter(folder / "window.parquet", table.schema)
        writer.write_table(table, row_group_size=ROW_GROUP)
    if writer is not None:
        writer.close()


def look(folder: Path, rows: int, columns: int) -> Figures:
    """Look at the first rows of what was written, as at a window, in this process."""
    stream, monitor = generated(columns), Drift()
    reference = stream.sample(pd.read_parquet(folder / "reference.parquet"))
    fitted = monitor.fit(reference)
    wall, cpu = time.perf_counter(), time.process_time()
    window = ParquetSource("window.parquet", every=rows, start=0, base=str(folder)).read(1, 0)
    seen = survey(window.partitions, stream.schema, 1, [(monitor, fitted)], MonitorsSettings().rows)
    if seen.failed:
        raise seen.failed[monitor.name]
    case = Case(fitted, seen.seen[monitor.name], reference, stream.sample(seen.frame, 1), 0.05)
    answer = monitor.check(case).answer
    return {
        "rows": seen.rows,
        "columns": columns,
        "answer": answer.value,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": peak() / MIB,
    }


def peak() -> int:
    """Return the most bytes of memory that this process has held; not what its parent held, as getrusage counts."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def elsewhere(*arguments: object) -> Any:
    """Run this file as a process of its own, and return what it prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout else None


def measured(sizes: Sequence[int], columns: int, seed: int, times: int = TIMES) -> list[Figures]:
    """Write the largest of these windows, and look at the first rows of it, as many as each has, in fresh processes.

    Of ``times`` looks at one window the one of the median CPU time counts; the largest is looked at once.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="trimtab-footprint-") as place:
        free = shutil.disk_usage(place).free
        if free < 2 * max(sizes) * columns * 8:
            raise SystemExit(f"{place} has {free / 1e9:.0f} GB left, too few for {max(sizes)} rows; set TMPDIR")
        elsewhere("write", place, max(sizes), columns, "--seed", seed)
        for rows in sizes:
            looks = [elsewhere("look", place, rows, columns) for _ in range(1 if rows == LARGE else times)]
            found.append(dict(sorted(looks, key=lambda told: told["cpu_seconds"])[len(looks) // 2]))
    return found


@functools.cache
def longer(seed: int, quick: bool) -> list[Figures]:
    """Measure windows of growing numbers of rows, once for all parts that ask."""
    return measured(QUICK_ROWS if quick else ROWS, COLUMNS, seed)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of a line through the logarithms of time and size.

    Examples
    --------
    >>> round(exponent([1, 10, 100], [2, 20, 200]), 6)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def memory(ground: Ground) -> Told:
    """Measure the peak of a process that looks at the largest window."""
    told = longer(ground.seed, ground.quick)[-1]
    key = f"peak_mib_{told['rows'] // 10**6}m"
    return Told({key: told["peak_mib"]}, [_table([told], "Memory")])


def scaling(ground: Ground) -> Told:
    """Measure how time grows with rows, and with columns."""
    more = longer(ground.seed, ground.quick)
    wider = [told for columns in WIDE for told in measured([WIDE_ROWS], columns, ground.seed)]
    slopes = {
        "rows": exponent([told["rows"] for told in more], [told["cpu_seconds"] for told in more]),
        "columns": exponent(WIDE, [told["cpu_seconds"] for told in wider]),
    }
    figures = {"scaling_exponents": slopes, "scaling": {"rows": more, "columns": wider}}
    title = "Time grows with the power {rows:.2f} of rows and {columns:.2f} of columns".format(**slopes)
    return Told(figures, [_table([*more, *wider], title)])


def _table(looks: Sequence[Figures], title: str) -> Table:
    table = Table("rows", "columns", "CPU s", "s", "peak MiB", "answer", title=title)
    for told in looks:
        seconds = (f"{told[key]:.2f}" for key in ("cpu_seconds", "seconds"))
        table.add_row(f"{told['rows']:,}", str(told["columns"]), *seconds, f"{told['peak_mib']:.0f}", told["answer"])
    return table


def main() -> None:
    """Write a window, or look at it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=("write", "look"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("columns", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.do == "write":
        write(given.folder, given.rows, given.columns, given.seed)
    else:
        print(json.dumps(look(given.folder, given.rows, given.columns)))


if __name__ == "__main__":
    main()
