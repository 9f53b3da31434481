"""Looks at the report split, kept beside the fitness file in ``NAME.looks.jsonl``.

Report items tell the truth once: whoever changes a search after seeing them has searched on them.
Each look is a line with the date, what was scored, and a digest of the items, so that nobody has to
remember how often they were opened. No result depends on this file.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from evomerge import config
from evomerge.errors import InputError
from evomerge.run.events import items_digest
from evomerge.run.record import Record

_log = logging.getLogger("evomerge.run")


@dataclass(frozen=True)
class Look:
    """``by`` is the command; ``recipe``: what names the model: a recipe's or a run's digest."""

    date: str
    by: str
    model: str
    recipe: str
    items: str
    splits: str


def looks_file(fitness: Path) -> Path:
    """Where looks at the report items of a fitness file (or of an inline fitness) are kept."""
    return fitness.with_name(f"{fitness.stem}.looks.jsonl")


def fitness_of(run: Path) -> Path:
    """The fitness file of a run.yaml, or that file itself if the fitness stands inline."""
    part = config.read(run).value.get("fitness")
    inline = part is None or not isinstance(part.value, str)
    return run if inline else (part.folder / Path(part.value).expanduser()).resolve()


def read_looks(path: Path, items: str) -> list[Look]:
    """Earlier looks at the report items that the digest ``items`` names, in order.

    Raises:
        InputError: a line is not a look.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            look = Look(**json.loads(line))
        except (ValueError, TypeError):
            raise InputError(
                f"{path}:{number}: not a look at a report split: {line[:60]!r}; delete this line if it "
                "is no record of anything"
            ) from None
        if look.items == items:
            found.append(look)
    return found


def record_look(path: Path, **facts: str) -> None:
    """Add a look, dated now; a file that cannot be written is told of, and work goes on."""
    look = Look(date=datetime.now(UTC).isoformat(timespec="seconds"), **facts)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(look)) + "\n")
    except OSError as error:
        _log.warning(
            "%s: cannot be written (%s): this look at the report split is not recorded; keep count of it "
            "yourself",
            path,
            error.strerror,
        )


def refuse_second_look(path: Path, items: str, again: bool) -> list[Look]:
    """Earlier looks at these items.

    Raises:
        InputError: there are some, and ``again`` was not asked for.
    """
    earlier = read_looks(path, items)
    if earlier and not again:
        last = earlier[-1]
        raise InputError(
            f"these report items were looked at {times(len(earlier))} before, last on {last.date[:10]} by "
            f"`evomerge {last.by}` with {last.model} ({path}). What was seen there may have shaped this model: "
            "choose by --split select, or say --again to look once more; that is recorded, too"
        )
    return earlier


def record_search(run: Path, record: Record) -> list[Look]:
    """Record that a finished search opened its report items, once; the looks before it.

    Args:
        run: its run.yaml.
        record: of the search.
    """
    splits, digest = record.head["splits"], record.head["digest"]
    items = items_digest(splits["items"]["report"])
    try:
        path = looks_file(fitness_of(run))
        known = read_looks(path, items)
    except InputError as error:
        _log.warning("this look at the report split is not recorded: %s", error)
        return []
    own = [number for number, look in enumerate(known) if look.recipe == digest]
    if own:
        return known[: own[0]]
    facts = {"recipe": digest, "items": items, "splits": splits["digest"]}
    record_look(path, by="search", model=str(record.folder), **facts)
    return known


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
