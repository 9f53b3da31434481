"""What a worker tells of itself while it works, by way of the cluster's own store; and its end, where its node's is."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from os import _exit  # itself, whatever stands in its place while code of the user's runs
from pathlib import Path
from typing import Any

PAUSE = 1.0  # seconds between words
_STEP = 16 << 20  # bytes; memory is told no finer, so that an idle worker is quiet


@dataclass(frozen=True)
class Word:
    """What a worker told last.

    Attributes:
        turn: of its jobs, which one this is about; from 1.
        told: how often it told progress: what grows is at work.
        done, total: items of the job; 0 of 0 if it did not tell.
        memory: bytes that its process holds.
        kills: processes that its machine's kernel killed for lack of memory, since it was started; None: it did not
            tell.
    """

    turn: int = 0
    told: int = 0
    done: int = 0
    total: int = 0
    memory: int = 0
    kills: int | None = None


class Telling:
    """Tells, from a thread of its own, so that a job never waits for it.

    The same thread ends the process when the node's raylet is gone. Ray's worker sees to that itself, but not where
    nobody has taken notice of the raylet's death: in containers without an init.
    """

    def __init__(self, name: str, raylet: int) -> None:
        """Tell under this ``name``, as long as there is a process ``raylet``; 0: it is out of sight, in another namespace."""
        self._name, self._word, self._raylet = name.encode(), Word(), raylet
        threading.Thread(target=self._go_on, daemon=True).start()

    def begin(self) -> None:
        """The next job begins."""
        self._word = replace(self._word, turn=self._word.turn + 1, done=0, total=0)

    def heard(self, done: int, total: int) -> None:
        """So many items of how many are done."""
        self._word = replace(self._word, told=self._word.told + 1, done=done, total=total)

    def _go_on(self) -> None:
        said = None
        while True:
            if self._raylet and is_gone(self._raylet):
                _exit(1)
            word = replace(self._word, memory=_memory(), kills=kills())
            if word != said:
                with suppress(Exception):  # nobody is to fail for that
                    _put(self._name, word)
                    said = word
            time.sleep(PAUSE)


def words(ray: Any, names: Sequence[str]) -> dict[str, Word]:
    """The last words of workers, by name, of those that told any and can be read; that nobody can disturbs nobody."""
    with suppress(Exception):
        client = ray.experimental.internal_kv.internal_kv_get_gcs_client()
        found: Mapping[bytes, bytes] = client.internal_kv_multi_get(
            [name.encode() for name in names], None
        )
        return {name.decode(): Word(**json.loads(text)) for name, text in found.items()}
    return {}


def forget(ray: Any, prefix: str) -> None:
    """Take words out of the store again, of all names that begin so."""
    with suppress(Exception):
        ray.experimental.internal_kv._internal_kv_del(prefix.encode(), del_by_prefix=True)


def kills() -> int:
    """Processes that this machine's kernel killed for lack of memory; 0 where it does not tell."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def is_gone(pid: int) -> bool:
    """Whether a process of this machine has ended, also if nobody has taken notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return Path("/proc/self").exists()
    return state in "ZX"


def _memory() -> int:
    """Bytes that this process holds, roughly."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() // _STEP * _STEP
    return 0


def _put(name: bytes, word: Word) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(name, json.dumps(asdict(word)).encode(), overwrite=True)
