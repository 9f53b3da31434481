"""What a page draws on: a record, read once, and the answers to the report's items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from evomerge.errors import InputError
from evomerge.evolution.history import Batch, History, Phase
from evomerge.judging.table import Row, Table
from evomerge.record.answers import join, restrict
from evomerge.record.events import EvaluationLine, Head, Line
from evomerge.record.record import Record
from evomerge.suite.objectives import BASE
from evomerge.suite.scorer import Results
from evomerge.suite.splits import Split


class Material:
    """See the module's text; all of it is worked out when it is first asked for.

    Attributes:
        record: of the run.
        history: its.
        head: its.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.history: History = record.history
        self.head: Head = record.head

    @property
    def lines(self) -> Sequence[Line]:
        """The events of the journal, but for batches."""
        return self.record.lines

    @cached_property
    def evaluations(self) -> Mapping[tuple[int, int], EvaluationLine]:
        """(batch, candidate) -> its event."""
        return {
            (line.batch, line.candidate): line
            for line in self.lines
            if isinstance(line, EvaluationLine)
        }

    @property
    def done(self) -> bool:
        """True once the newest table stands and nothing is to follow it."""
        return self.table is not None and self.history.done

    @property
    def table(self) -> Table | None:
        """On the report split; of a search that went on after it, the newest."""
        return self.record.table

    @cached_property
    def references(self) -> Mapping[int, str]:
        """Candidate -> name, of base and parents."""
        return (
            {c.id: c.origin for c in self.history.batches[0].candidates}
            if self.history.batches
            else {}
        )

    @cached_property
    def parents(self) -> Mapping[int, str]:
        """The same without the base."""
        return {id: name for id, name in self.references.items() if name != BASE}

    @property
    def chosen(self) -> int | None:
        """The winner; before the end the best by its search score; None before there is one."""
        if self.table is not None:
            return self.table.winner
        best = self.history.best
        return None if best is None else best.candidate

    def name(self, candidate: int) -> str:
        """``#33 auto, descend tensor``; base and parents by their names."""
        if candidate in self.references:
            return self.references[candidate]
        return f"#{candidate} {self.history.candidates[candidate].origin}"

    def best_of(self, rows: Mapping[int, str]) -> Row | None:
        """The row of the final table with the best score, among these candidates."""
        found = [
            r for r in (self.table.rows if self.table else ()) if r.candidate in rows and r.score
        ]
        return max(found, key=lambda row: row.score.value if row.score else 0.0, default=None)

    @cached_property
    def report(self) -> Batch | None:
        """The batch that the final table is of; None before there is one."""
        if self.table is None:
            return None
        found = [b for b in self.history.batches if b.phase == Phase.REPORT]
        rows = {row.candidate for row in self.table.rows}
        return next((b for b in reversed(found) if {c.id for c in b.candidates} == rows), None)

    @cached_property
    def answers(self) -> Mapping[int, Results]:
        """Candidate -> its answers to the report's items; empty where the store is not at hand."""
        if self.report is None:
            return {}
        wanted = {}
        for candidate in self.report.candidates:
            line = self.evaluations.get((self.report.number, candidate.id))
            if line is not None and line.values is not None:
                used = [line, *(self.evaluations[at] for at in line.reused)]
                wanted[candidate.id] = [block for each in used if (block := each.block_at())]
        try:
            store = self.record.open_responses(
                [block for each in wanted.values() for block in each]
            )
        except InputError:
            return {}
        items, found = self.head.splits.items[Split.REPORT], {}
        with store:
            for id, blocks in wanted.items():
                parts = join([store.read(block) for block in blocks])
                if all(set(ids) <= set(parts[name]["items"]) for name, ids in items.items()):
                    found[id] = restrict(parts, items)
        return found
