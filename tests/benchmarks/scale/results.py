"""The measurements of ``results.json`` as the tables of docs/scale.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("results.json")
Row = dict[str, Any]


def load() -> Row:
    """What was measured."""
    found: Row = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def driver_table(found: Row) -> str:
    """What a driver takes for an evaluation, by optimizer: in the first, middle and last tenth of the run."""
    columns = (
        *("optimizer", "evaluations", "ms each, first tenth", "fifth", "last"),
        *("memory, bytes", "journal, bytes", "answers, bytes"),
    )
    rows = []
    for row in found["long"]:
        cpu = row["cpu_ms"]
        times = cpu[0], cpu[4], cpu[-1]
        rows.append(
            (
                f"`{row['optimizer']}`",
                f"{row['evaluations']:,}",
                *(f"{value:.1f}" for value in times),
                *(f"{row[name]:,}" for name in ("memory_bytes", "journal_bytes", "store_bytes")),
            )
        )
    return _table(columns, rows)


def reading_table(found: Row) -> str:
    """How long it takes to read what the longest search left."""
    whats = {
        "status": "`evomerge status`",
        "status_in_process": "the same without the start of a process, as `--watch` does",
        "status_without_index": "`evomerge status`, the index deleted",
        "report": "`evomerge report -o page.html`",
        "export": "`evomerge export -o best.yaml`",
        "search": "`evomerge search` of the finished run",
        "resume": "a killed search, until it asks again",
    }
    longest, *_ = found["long"]
    rows = [(text, f"{longest['read'][name]:.1f}") for name, text in whats.items()]
    return _table((f"after {longest['evaluations']:,} evaluations", "seconds of CPU"), rows)


def slots_table(found: Row) -> str:
    """How busy slots are, by what may be under way at a time."""
    simulated = found["slots"]
    ratios = sorted({row["ratio"] for row in simulated["busy"]})
    keys = dict.fromkeys((row["slots"], row["population"]) for row in simulated["busy"])
    share = {(r["slots"], r["population"], r["ratio"]): r for r in simulated["busy"]}
    rows = [
        (
            f"{slots}",
            f"{population}",
            *(
                f"{share[slots, population, ratio]['busy']:.0%} (lag {share[slots, population, ratio]['lag']})"
                for ratio in ratios
            ),
        )
        for slots, population in keys
    ]
    return _table(("slots", "population", *(f"{ratio} a slot under way" for ratio in ratios)), rows)


def saturation_table(found: Row) -> str:
    """Where the driver is the bottleneck: how long a job must take, and how many slots it keeps busy."""
    cost = found["slots"]["cost_ms"] / 1000
    rows = [
        (f"{row['seconds']:g} s", f"{row['seconds'] * 1.65 / cost:,.0f}", f"{row['busy']:.0%}")
        for row in found["slots"]["saturated"]
    ]
    return _table(
        ("a job takes, in the median", "slots that one driver can serve", "512 slots are busy"),
        rows,
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(found: Row) -> str:
    """All of them, each under what it is about."""
    return "\n\n".join(
        (
            f"**The driver**, in milliseconds of CPU and bytes an evaluation, on {found['machine']}; it waits {found['disk_ms']:.1f} ms more "
            "for the disk:",
            driver_table(found),
            "**What is left of it**:",
            reading_table(found),
            f"**Slots** in simulated time; jobs of 60 s in the median, log-normal (sigma 1); {found['slots']['cost_ms']:.1f} ms of "
            "the driver for each, the disk included:",
            slots_table(found),
            "**Where the driver saturates**:",
            saturation_table(found),
        )
    )
