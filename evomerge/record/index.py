"""The index of a journal: what of it a status needs, so that of a long journal only the newest lines are read.

It lies beside the journal and may be deleted at any time. It holds the lines that matter still and, of each
batch that is long past, what it cost; it names how far into the journal it reaches, and the checksum of all up
to there: a journal that is another by a byte is read whole. The search writes it; who looks at a run writes nothing.
"""

from __future__ import annotations

import base64
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from evomerge import config
from evomerge.errors import InputError, RunError
from evomerge.evolution.history import Cost, Past, Phase
from evomerge.plain_files import read_plain
from evomerge.record import events, journal
from evomerge.record.journal import Place
from evomerge.record.record import Record, empty

NAME = "journal.index.json"
FORMAT = 1
LEAST = 1000  # lines: a journal of fewer is read in no time
SHARE = 50  # it is written anew when this part of the journal came since


@dataclass(frozen=True)
class _File:
    """The file.

    Attributes:
        format: of it.
        place: how far it reaches.
        checksum: of the journal up to there.
        seconds, worked, last, newest: see ``Survey``.
        marks: ``History.marks``, 8 bytes each, in base 64.
        entries: texts of events as they stand in the journal, or [phase, candidates, evaluations, items, tokens, failed].
    """

    format: int
    place: Place
    checksum: int
    seconds: float
    worked: dict[str, int | float]
    last: float | None
    newest: float
    marks: str
    entries: list[msgspec.Raw]


_past = msgspec.json.Decoder(tuple[Phase, int, int, int, int, int]).decode


class Brief(Record):
    """A record that is read by its index, where there is one. Its history knows of most batches of the search no
    more than what they cost, and the best merge; it has no ``lines``."""

    def _read(self, path: Path) -> None:
        self.path = path
        self._forget()
        try:
            with events.reading(path, 1):
                file = msgspec.json.decode(read_plain(path.with_name(NAME)), type=_File)
                size = file.place.size
                ours = file.format == FORMAT and 0 <= size <= path.stat().st_size
                if ours and journal.checksum(path, 0, size) == file.checksum:
                    self._restore(file)
        except (OSError, InputError):
            self._forget()  # it is not there, half there, or somebody else's
        self.follow()
        if self._survey.head is None:
            raise empty(path)

    def _forget(self) -> None:
        self._survey, self.lines = events.Survey(), []
        self._place, self._checksum = Place(), 0
        self._written = Place()  # where the index ends
        self._entries: list[events.Line | Past] = []

    def follow(self) -> None:
        """Take in what was written since.

        Raises:
            InputError: the journal is damaged.
        """
        start = self._place
        found = events.lines_of(self.path, self._newer(), self._survey.head, start.lines)
        with events.unswept():
            for line in found:
                self._survey.add(line)
                self._take(line)
        if self._place != start:
            size = self._place.size
            self._checksum = journal.checksum(self.path, start.size, size, self._checksum)

    def _newer(self) -> Iterator[bytes]:
        for text, place in journal.behind(self.path, self._place):
            self._place = place
            yield text

    def _take(self, line: events.Line) -> None:
        self._fold(line)
        self.lines.clear()
        if not isinstance(line, (events.DecisionLine, events.SessionLine)):
            self._entries.append(line)

    def _restore(self, file: _File) -> None:
        self._forget()
        texts = [bytes(entry) for entry in file.entries]
        lines = events.lines_of(self.path, (text for text in texts if text.startswith(b"{")))
        for text in texts:
            if text.startswith(b"{"):
                line = next(lines)
                self._survey.add(line)
                self._take(line)
            else:
                phase, candidates, *cost, failed = _past(text)
                past = Past(phase, candidates, Cost(*cost), failed)
                self.history.skip(past)
                self._entries.append(past)
        survey, marks = self._survey, array("Q", base64.b64decode(file.marks))
        survey.count, survey.seconds = file.place.lines, file.seconds
        survey.worked, survey.last, survey.newest = Counter(file.worked), file.last, file.newest
        self.history.marks.update(marks)
        self._place = self._written = file.place
        self._checksum = file.checksum

    def write(self) -> None:
        """Write the index, if it is another by now, and forget what does not stand in it.

        Raises:
            OSError: it cannot be written.
        """
        if self._place == self._written:
            return
        survey, entries, past = self._survey, list[events.Line | Past](), set[int]()
        number = 0
        for entry in self._entries:
            found = None
            if isinstance(entry, (events.BatchLine, Past)):
                found = entry if isinstance(entry, Past) else self.history.past(number)
                past |= {number} if found else set()
                number += 1
            entries.append(found or entry)
        kept = [
            msgspec.Raw(_text(each))
            for each in entries
            if not (isinstance(each, events.EvaluationLine) and each.batch in past)
        ]
        file = _File(
            format=FORMAT,
            place=self._place,
            checksum=self._checksum,
            seconds=survey.seconds,
            worked=dict(survey.worked),
            last=survey.last,
            newest=survey.newest,
            marks=base64.b64encode(array("Q", sorted(self.history.marks)).tobytes()).decode(),
            entries=kept,
        )
        content = msgspec.json.encode(file)
        config.write_bytes(self.path.with_name(NAME), content)
        self._restore(msgspec.json.decode(content, type=_File))


def _text(entry: events.Line | Past) -> bytes:
    if isinstance(entry, events.Line):
        return journal.text_of(entry.plain)
    cost = entry.cost.evaluations, entry.cost.items, entry.cost.tokens
    return msgspec.json.encode((entry.phase, entry.candidates, *cost, entry.failed))


class Index:
    """Keeps the index of a journal that grows. Nothing depends on it: where it cannot be written, there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._brief: Brief | None = None
        self._lines = 0  # of the journal, when it was looked at last

    def keep(self, lines: int, *, last: bool = False) -> None:
        """Write it, if that pays for a journal of so many lines by now; ``last``: it grows no more for now."""
        if lines < LEAST or lines - self._lines < (1 if last else max(LEAST, self._lines // SHARE)):
            return
        self._lines, brief, self._brief = lines, self._brief, None
        with suppress(OSError, InputError, RunError):
            brief = brief or Brief(self._path.parent)
            brief.follow()
            brief.write()
            self._brief = brief  # whole: nothing went wrong half way
