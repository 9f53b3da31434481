"""Whose fault it is that a worker is gone: its node's, which is nobody's, or that of what it did."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

_GUESSES = re.compile(r" Some common causes include: .*", re.DOTALL)  # of Ray's, at every death
_HEADING = re.compile(r"^(The actor died unexpectedly.*|\t[a-z_]+: .*)\n", re.MULTILINE)


class Kind(Enum):
    """What took a worker."""

    NODE = "its node went away"
    UNREACHED = "it cannot be reached"  # why is not known yet
    MONITOR = "killed by Ray's memory monitor"
    KERNEL = "killed by the kernel, which lacked memory"
    PROCESS = "its process ended, by a signal or of itself"
    HUNG = "it hung"


@dataclass
class Loss:
    """A worker that is gone.

    Attributes:
        kind: as far as it is known.
        node: the id of its node; empty: it never told.
        who: worker and node, for people.
        memory: bytes that it held, as it told last; 0: it never told.
        kills: of its node's kernel, as it told last; None: it never told.
        at: when, in seconds of a clock that never jumps.
        reason: what Ray says.
    """

    kind: Kind
    node: str
    who: str
    memory: int
    kills: int | None
    at: float
    reason: str

    def learn(self, kills: int) -> None:
        """Its node's kernel has killed so many since: if that are more, it may well have been this one."""
        if self.kind is Kind.PROCESS and self.kills is not None and kills > self.kills:
            self.kind = Kind.KERNEL

    def is_fault(self, staying: Collection[str]) -> bool:
        """Whether it counts: what took the worker is known, and its node is among those that stay."""
        if self.kind in (Kind.NODE, Kind.UNREACHED):
            return False
        return not self.node or self.node in staying

    @property
    def text(self) -> str:
        held = f", which held {self.memory / 1e9:.1f} GB when it told last" if self.memory else ""
        return f"{self.who}{held}: {self.kind.value}"


def kind_of(ray: Any, error: Exception) -> Kind:
    """What an error of Ray's says of a worker."""
    errors = ray.exceptions
    if isinstance(error, errors.OutOfMemoryError):
        return Kind.MONITOR
    if isinstance(error, errors.NodeDiedError) or getattr(error, "preempted", False):
        return Kind.NODE
    if isinstance(error, errors.ActorUnavailableError):
        return Kind.UNREACHED
    gone = ("its node has died", "its owner has died")
    return Kind.NODE if any(text in str(error) for text in gone) else Kind.PROCESS


def reason_of(error: Exception) -> str:
    """What Ray says, without what it says every time."""
    text = _HEADING.sub("", _GUESSES.sub("", str(error)))
    return textwrap.shorten(text, 300)


def verdict(losses: Sequence[Loss]) -> str:
    """How workers were lost, and what to do about it; the last one in full."""
    counts = Counter(loss.kind for loss in losses)
    how = ", ".join(f"{count} x {kind.value}" for kind, count in counts.items())
    if Kind.MONITOR in counts or Kind.KERNEL in counts:
        advice = (
            "give each more memory: fewer workers a node (--workers, or a larger --num-cpus), or "
            "larger machines; `evomerge check RUN --measure` says what one takes"
        )
    else:
        advice = (
            "find what ended them, most often a lack of memory (then: fewer workers, or larger "
            "machines) or a crash in native code; the logs of Ray on the node say more"
        )
    last = losses[-1]
    return f"{how}. To mend it, {advice}. The last one was {last.text}. Ray said: {last.reason}"
