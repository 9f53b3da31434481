"""Why a winner won, as far as it was measured: a file beside the journal, what the winner loses without parts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from evomerge.errors import InputError
from evomerge.inference.intervals import Interval
from evomerge.judging.table import interval_from
from evomerge.plain_files import open_plain
from evomerge.record.record import Record

FILE = "ablation.json"
_LARGEST = 4 << 20  # bytes of the file
_MOST = 10**9  # of anything that is counted there


@dataclass(frozen=True)
class Loss:
    """What the winner has more than a variant of it: paired differences on the select items, in the metrics' units.

    Attributes:
        kind: of what is lacking: ``parent`` or ``part``.
        without: what is lacking, in words.
        score: to first order; None where that cannot be told.
        objectives: the measured ones, winner less variant, also of those where less is better.
        failed: why the variant gave no finite answers; empty if it did.
    """

    kind: str
    without: str
    score: Interval | None = None
    objectives: Mapping[str, Interval | None] = field(default_factory=dict)
    failed: str = ""

    @property
    def plain(self) -> dict[str, Any]:
        found = {"kind": self.kind, "without": self.without}
        if self.failed:
            return {**found, "failed": self.failed}
        return {
            **found,
            "score": self.score and self.score.plain,
            "objectives": {name: each and each.plain for name, each in self.objectives.items()},
        }


@dataclass(frozen=True)
class Ablation:
    """The losses of one winner.

    Attributes:
        winner: a candidate.
        digest: of its recipe.
        evaluations: that it took, the winner's own among them.
        items: of each, by scorer.
        losses: variant by variant.
    """

    winner: int
    digest: str
    evaluations: int
    items: Mapping[str, int]
    losses: Sequence[Loss]

    @property
    def plain(self) -> dict[str, Any]:
        """For the file."""
        return {
            "winner": self.winner,
            "digest": self.digest,
            "evaluations": self.evaluations,
            "split": "select",
            "items": dict(self.items),
            "rows": [each.plain for each in self.losses],
        }

    @property
    def asked(self) -> int:
        """Items of each evaluation."""
        return sum(self.items.values())


@dataclass(frozen=True)
class _Row:
    """A loss as it stands in the file."""

    kind: str
    without: str
    failed: str = ""
    score: dict[str, Any] | None = None
    objectives: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    @property
    def loss(self) -> Loss:
        if self.kind not in ("parent", "part"):
            raise ValueError(f"{self.kind!r:.60} where `parent` or `part` was expected")
        objectives = {name: _interval(each) for name, each in self.objectives.items()}
        return Loss(self.kind, self.without, _interval(self.score), objectives, self.failed)


def _interval(plain: dict[str, Any] | None) -> Interval | None:
    return None if plain is None else interval_from(plain)


@dataclass(frozen=True)
class _File:
    """The file, its types checked."""

    winner: int
    digest: str
    evaluations: int
    items: dict[str, int]
    rows: list[_Row]

    @property
    def ablation(self) -> Ablation:
        counts = (self.winner, self.evaluations, *self.items.values())
        if not all(0 <= count <= _MOST for count in counts):
            raise ValueError("a count that there cannot be")
        losses = [row.loss for row in self.rows]
        return Ablation(self.winner, self.digest, self.evaluations, self.items, losses)


def ablation_of(record: Record) -> Ablation | None:
    """What was measured of a run's winner, or of an earlier one; None if nothing was.

    Raises:
        InputError: the file cannot be read, or is not as evomerge wrote it.
    """
    path = record.folder / FILE
    try:
        with open_plain(path) as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if len(content) > _LARGEST:
            raise ValueError(f"more than {_LARGEST >> 20} MB")
        return msgspec.json.decode(content, type=_File).ablation
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not as `evomerge report --ablate` writes it: {error}; delete it, or make it anew "
            "with --ablate N --force"
        ) from None
