"""Row weights: by what a recipe multiplies a source's weight in a tensor, row by row or column by column.

They lie in a safetensors file beside the recipe, which names it and its sha256: for each tensor and source
one float32 vector ``SOURCE/TENSOR`` with a factor for each row of a matrix (each index of a tensor's first axis)
and for each entry of a norm or bias; or, where the file's metadata say ``by: columns``, for each column. What
the file does not name has the factor 1.

A weight per tensor can be read; thousands of factors cannot. They are careful fine-tuning in a small
subspace, that of the sources' task vectors.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.config import Section
from evomerge.errors import InputError
from evomerge.plain_files import read_plain

Array = NDArray[np.float32]
Vectors = Mapping[str, Mapping[str, Array]]  # tensor -> source -> [rows], or [columns]

ROWS, COLUMNS = "rows", "columns"
BY = (ROWS, COLUMNS)

SUFFIX = ".rows.safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def count_of(shape: Sequence[int], by: str) -> int:
    """How many factors a tensor of a ``shape`` has for each source."""
    return math.prod(shape[1:]) if by == COLUMNS and len(shape) > 1 else shape[0]


def text_of(flat: Array) -> str:
    """Numbers as text for a border that only text crosses: their bytes, four a number, in base 64."""
    return base64.b64encode(flat.astype("<f4").tobytes()).decode("ascii")


def array_of(text: str) -> Array:
    """What ``text_of`` was made from."""
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)


@dataclass(frozen=True)
class RowWeights:
    """What a recipe says of its row weights: ``rows: {file: FILE, sha256: ...}``.

    Attributes:
        file: as written; only its content counts.
        sha256: of the file.
        origin: the folder that ``file`` starts from.
        held: the file's content, where it is at hand; read when it is needed else.
    """

    file: str = field(compare=False)
    sha256: str
    origin: str = field(default=".", compare=False)
    held: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, vectors: Vectors, by: str = ROWS) -> RowWeights:
        """Row weights that lie in no file yet; named by their content."""
        from safetensors.numpy import save

        flat = {
            f"{model}/{tensor}": np.ascontiguousarray(vector, np.float32)
            for tensor, by_model in vectors.items()
            for model, vector in by_model.items()
        }
        content = save(flat, None if by == ROWS else {"by": by})
        sha256 = hashlib.sha256(content).hexdigest()
        return cls(f"{sha256[:16]}{SUFFIX}", sha256, held=content)

    @property
    def plain(self) -> dict[str, Any]:
        """As it stands in a recipe."""
        return {"file": self.file, "sha256": self.sha256}

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(self.origin, self.file).absolute()

    def portable(self) -> RowWeights:
        """The same with an absolute name."""
        return replace(self, file=str(self.path))

    @classmethod
    def parse(cls, section: Section) -> RowWeights | None:
        """From the mapping under ``rows``; problems are noted in the section. No file is opened."""
        before = len(section.problems.found)
        file = section.text("file", required=True)
        sha256 = section.text("sha256", required=True)
        if sha256 and not _DIGEST.fullmatch(sha256):
            section.problem("sha256", "expected 64 digits of 0-9 and a-f, as `sha256sum` says")
        section.finish()
        found = len(section.problems.found) > before
        return None if found else cls(file, sha256, str(section.node.folder))

    def read(self) -> bytes:
        """The content of the file.

        Raises:
            InputError: it is absent, or another one than the recipe was written with.
        """
        content = self.held
        if content is None:
            try:
                content = read_plain(self.path)
            except OSError as error:
                raise InputError(
                    f"{self.path}: the recipe's row weights cannot be read ({error.strerror}); the file "
                    "belongs beside the recipe, put it back"
                ) from None
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise InputError(
                f"{self.path}: these row weights are not the recipe's: their sha256 is {found[:16]}..., "
                f"the recipe says {self.sha256[:16]}..."
            )
        return content

    @cached_property
    def by(self) -> str:
        """What has a factor: ``rows`` or ``columns``.

        Raises:
            InputError: see ``read``; or the file says neither.
        """
        content = self.read()
        try:
            length = int.from_bytes(content[:8], "little")
            said = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get("by", ROWS)
        except (ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"{self.path}: is no safetensors file: {error}") from None
        if said not in BY:
            raise InputError(
                f"{self.path}: its metadata say by: {said!r:.100}; expected {' or '.join(BY)}"
            )
        return str(said)

    @cached_property
    def vectors(self) -> Vectors:
        """Tensor -> source -> factors [rows] or [columns], in the file's order of names.

        Raises:
            InputError: see ``read``; or the content is no such file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            flat = load(self.read())
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{self.path}: is no safetensors file: {error}") from None
        found: dict[str, dict[str, Array]] = {}
        for name in sorted(flat):
            vector = flat[name]
            model, slash, tensor = name.rpartition("/")
            if not slash or vector.ndim != 1 or vector.dtype != np.float32:
                raise InputError(
                    f"{self.path}: {name}: expected float32 vectors called SOURCE/TENSOR, found "
                    f"{vector.dtype} {list(vector.shape)}"
                )
            if not np.isfinite(vector).all():
                raise InputError(f"{self.path}: {name}: holds NaN or infinite factors")
            found.setdefault(tensor, {})[model] = vector
        return found

    def spans(self) -> Iterator[tuple[str, str, int]]:
        """Tensor, source and length of each vector, in the order of ``flat``."""
        for tensor, by_model in self.vectors.items():
            for model, vector in by_model.items():
                yield tensor, model, len(vector)

    @property
    def flat(self) -> Array:
        """All factors, one vector after the other."""
        vectors = [vector for by_model in self.vectors.values() for vector in by_model.values()]
        return np.concatenate(vectors) if vectors else np.zeros(0, np.float32)

    @property
    def size(self) -> int:
        """How many factors there are."""
        return sum(length for _, _, length in self.spans())

    def renamed(self, names: Mapping[str, str]) -> RowWeights:
        """The same with sources called ``names[source]``.

        Raises:
            InputError: see ``vectors``.
        """
        return RowWeights.of(
            {
                tensor: {names.get(model, model): vector for model, vector in by_model.items()}
                for tensor, by_model in self.vectors.items()
            },
            self.by,
        )

    def moved(self, flat: NDArray[Any]) -> RowWeights:
        """Others of the same tensors and sources: ``flat`` holds the factors."""
        found: dict[str, dict[str, Array]] = {}
        at = 0
        for tensor, model, length in self.spans():
            found.setdefault(tensor, {})[model] = flat[at : at + length].astype(np.float32)
            at += length
        return RowWeights.of(found, self.by)
