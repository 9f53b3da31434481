"""How well an embedding model finds what a question asks for: nDCG, recall and reciprocal rank of the first k.

    similarity = cosine of two pooled rows of hidden states
    nDCG@k = sum over the relevant of the first k: 1 / log2(1 + rank), over the most that it could be

A relevant text that is as similar as another ranks behind it, so a model that says one thing of all texts finds
nothing.

Paper: Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config import shown
from evomerge.engines import Engine
from evomerge.errors import InputError
from evomerge.objects import Row, check_keys, read_objects, text_under
from evomerge.scorers.metrics import Means
from evomerge.scorers.outputs import Tokens, module_of, read_rows
from evomerge.scorers.pooling import Pooling, pooling_of
from evomerge.suite.scorer import Item, NonFinite, Responses
from evomerge.suite.spec import FIRST

if TYPE_CHECKING:
    import torch

METRICS = ("ndcg", "recall", "mrr")
_KEYS = ("query", "positives", "negatives", "source_id", "subset")  # of a line
_OF_CORPUS = ("id", "text")


@dataclass(frozen=True)
class _Query:
    """``texts`` are ranked, of which those numbered ``relevant`` are wanted."""

    text: str
    texts: tuple[str, ...]
    relevant: frozenset[int]
    item: Item


class Retrieval(Means):
    """Ranks texts by their similarity to a query, on a file of JSON lines; higher is better.

    A line has ``query``, a text; ``positives``, a list of texts, and ``negatives``, more texts that are ranked
    among them. With a ``corpus``, JSON lines of ``id`` and ``text``, ``positives`` are ids, and all of the corpus is
    ranked. ``source_id`` names the original, ``subset`` what samples are spread over. Items are named by the number
    of their line, from 0. An item's response is [rank, cosine] of each of its positives, best first, ranks from 1.

    Args:
        name: of the scorer.
        path: of the queries.
        corpus: a file; None: each query brings its own texts.
        k: how many of a ranking count; of several the metrics are called by them: ``ndcg@5``.
        pooling: how hidden states become one; None: as the folder of the tokenizer says for sentence-transformers.
        query_prefix, text_prefix: what models want in front of a text.

    Raises:
        InputError: a file is absent, empty or malformed, with file and line.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        *,
        corpus: str | Path | None = None,
        k: int | Sequence[int] = FIRST,
        pooling: str | None = None,
        query_prefix: str = "",
        text_prefix: str = "",
    ) -> None:
        self.name = name
        self._first = {"": k} if isinstance(k, int) else {f"@{each}": each for each in k}
        self.metrics: dict[str, bool] = {m + at: True for at in self._first for m in METRICS}
        self._said = pooling
        self._prefixes = query_prefix, text_prefix
        self._paths = [Path(each) for each in (path, corpus) if each is not None]
        known = None if corpus is None else _corpus(Path(corpus))
        rows = read_objects(Path(path))
        self._queries = {
            str(n): _query(n, row, where, known) for n, (where, row) in enumerate(rows)
        }
        self._engine: Engine | None = None
        self._pooling: Pooling | None = None
        self._rows: dict[str, Tokens] = {}

    @property
    def fingerprint(self) -> str:
        """Of queries and texts, and of how they are compared."""
        asked = [[q.text, q.texts, sorted(q.relevant)] for q in self._queries.values()]
        how = [list(self._first.values()), self._said, *self._prefixes]
        return hashlib.sha256(json.dumps([asked, how]).encode()).hexdigest()

    @property
    def files(self) -> dict[str, str]:
        """The files -> sha256 of what they say."""
        return dict.fromkeys((path.name for path in self._paths), self.fingerprint)

    @property
    def sources(self) -> dict[str, Path]:
        return {str(path): path for path in self._paths}

    def items(self) -> list[Item]:
        return [query.item for query in self._queries.values()]

    def bind(self, engine: Engine) -> None:
        """Take the engine whose module embeds.

        Raises:
            InputError: it has none, or nothing says how hidden states are pooled.
        """
        module_of(self.name, engine)
        self._pooling = pooling_of(self.name, self._said, Path(engine.tokenizer.name_or_path))
        self._engine = engine
        self._rows.clear()

    def score(self, ids: Sequence[str]) -> Responses:
        """Ranks of what each query wants."""
        if self._engine is None or self._pooling is None:
            raise RuntimeError(f"{self.name}: bind a model before scoring")
        for id in ids:
            if id not in self._queries:
                raise InputError(f"{self.name}: no item {id!r} among its {len(self._queries)}")
        asked, pooling = [self._queries[id] for id in ids], self._pooling
        embedder = module_of(self.name, self._engine).base_model
        before_query, before_text = self._prefixes

        def read(tokens: torch.Tensor) -> torch.Tensor:
            return pooling.of(embedder(input_ids=tokens).last_hidden_state)

        wanted = {before_query + query.text for query in asked}
        wanted |= {before_text + text for query in asked for text in query.texts}
        rows = {text: self._row(text) for text in sorted(wanted)}
        found = read_rows(list(rows.values()), read, self._engine.device)
        ranked = {}
        for id, query in zip(ids, asked, strict=True):
            own = found[rows[before_query + query.text]]
            texts = [found[rows[before_text + text]] for text in query.texts]
            similar = _similarities(own, texts)
            if not all(map(math.isfinite, similar)):
                raise NonFinite(self.name, id)
            ranked[id] = _ranked(similar, query.relevant)
        ranks = [[rank for rank, _ in ranked[id]] for id in ids]
        metrics = {
            at: [_metrics(each, first) for each in ranks] for at, first in self._first.items()
        }
        return {
            "items": list(ids),
            "responses": [ranked[id] for id in ids],
            "metrics": {
                name + at: [each[name] for each in found]
                for at, found in metrics.items()
                for name in METRICS
            },
            "tokens": sum(map(len, found)),
        }

    def _row(self, text: str) -> Tokens:
        """A text as tokens, with the tokenizer's own special ones; a long one loses its end."""
        assert self._engine is not None and self._pooling is not None
        if text not in self._rows:
            tokenizer = self._engine.tokenizer
            length = min(
                self._engine.max_length, tokenizer.model_max_length, self._pooling.max_length
            )
            self._rows[text] = tuple(
                tokenizer(text, truncation=True, max_length=length)["input_ids"]
            )
        return self._rows[text]


def _similarities(query: torch.Tensor, texts: Sequence[torch.Tensor]) -> list[float]:
    import torch

    made: list[float] = torch.cosine_similarity(
        query[None], torch.stack(list(texts)), dim=1
    ).tolist()
    return made


def _ranked(similar: Sequence[float], relevant: frozenset[int]) -> list[list[float]]:
    """[rank, similarity] of the relevant, ranks ascending from 1; behind what is as similar."""
    order = sorted(range(len(similar)), key=lambda n: (-similar[n], n in relevant, n))
    return [[rank, similar[n]] for rank, n in enumerate(order, 1) if n in relevant]


def _metrics(ranks: Sequence[float], first: int) -> dict[str, float]:
    """By name, from the ranks of what is relevant."""
    within = [rank for rank in ranks if rank <= first]
    best = math.fsum(1 / math.log2(1 + n) for n in range(1, min(first, len(ranks)) + 1))
    return {
        "ndcg": math.fsum(1 / math.log2(1 + rank) for rank in within) / best,
        "recall": len(within) / len(ranks),
        "mrr": 1 / within[0] if within else 0.0,
    }


def _corpus(path: Path) -> dict[str, str]:
    """Id -> text."""
    found: dict[str, str] = {}
    for where, row in read_objects(path):
        check_keys(row, _OF_CORPUS, where)
        id = str(row.get("id"))
        if "id" not in row or id in found:
            raise InputError(f"{where}: expected an `id` of its own, found {shown(row.get('id'))}")
        found[id] = text_under(row, "text", where)
    return found


def _query(number: int, row: Row, where: str, corpus: dict[str, str] | None) -> _Query:
    check_keys(row, _KEYS, where)
    source, subset = row.get("source_id"), row.get("subset")
    text = text_under(row, "query", where)
    item = Item(
        str(number),
        str(number if source is None else source),
        stratum="" if subset is None else str(subset),
        text=text,
    )
    positives = _texts(row, "positives", where)
    if corpus is None:
        texts = (*positives, *_texts(row, "negatives", where))
        return _Query(text, texts, frozenset(range(len(positives))), item)
    if "negatives" in row:
        raise InputError(
            f"{where}: negatives: found beside a corpus, all texts of which are ranked; leave them out"
        )
    if unknown := [each for each in positives if each not in corpus]:
        raise InputError(f"{where}: positives: the corpus has no id {shown(unknown[0])}")
    relevant = frozenset(n for n, id in enumerate(corpus) if id in set(positives))
    return _Query(text, tuple(corpus.values()), relevant, item)


def _texts(row: Row, key: str, where: str) -> tuple[str, ...]:
    found = row.get(key)
    if not (isinstance(found, list) and found and all(isinstance(t, str) and t for t in found)):
        raise InputError(f"{where}: {key}: expected a list of texts, found {shown(found)}")
    return tuple(found)
