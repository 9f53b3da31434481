"""Near-duplicates: items of different sources that ask the same, found by what they say.

Two texts are near-duplicates if they are equal but for case and spacing, or if most of their
*rare* shingles (runs of words) are common to both. A run that stands in many sources is
boilerplate, a prompt's or a template's, and says nothing: what remains of an item made from a
template is what makes it another item.

Papers: Broder, "On the resemblance and containment of documents", 1997; Lee et al., "Deduplicating
    Training Data Makes Language Models Better", https://arxiv.org/abs/2107.06499.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from evomerge import seeds
from evomerge.suite.scorer import Item

SHINGLE = 4  # tokens in a shingle
RARE = 8  # sources that a shingle may stand in and still tell items apart
ALIKE = 0.6  # least Jaccard similarity, of rare shingles, of near-duplicates

Shingle = tuple[str, ...]

# A token is a word, a symbol, or a letter of a script that puts no spaces between words: Thai to
# Burmese, Khmer, Chinese and Japanese.
_CLOSED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_CLOSED}]|[^\W{_CLOSED}]+|[^\w\s]")


@dataclass(frozen=True)
class Duplicates:
    """Sources whose items are near-duplicates, in order, and two such texts."""

    sources: tuple[str, ...]
    texts: tuple[str, str]

    @property
    def leader(self) -> str:
        """The source whose split all of them take: a keyed draw, so that no split is favoured."""
        return min(self.sources, key=lambda source: seeds.key("near-duplicates", source))


def find_duplicates(items: Mapping[str, Sequence[Item]]) -> list[Duplicates]:
    """Groups of near-duplicate sources over all scorers; the order of items does not matter.

    Items without a text, and those whose split is fixed, belong to no group.
    """
    sources: dict[str, set[str]] = defaultdict(set)  # text -> sources
    for item in (item for listed in items.values() for item in listed):
        if item.split is None and (text := normal(item.text)):
            sources[text].add(item.source)
    texts = sorted(sources)
    parent = {source: source for named in sources.values() for source in named}

    def root(source: str) -> str:
        while parent[source] != source:
            parent[source] = source = parent[parent[source]]
        return source

    examples: dict[str, tuple[str, str]] = {}
    for one, other in _alike(texts, [sources[text] for text in texts]):
        roots = sorted(
            {root(source) for text in (texts[one], texts[other]) for source in sources[text]}
        )
        parent.update(dict.fromkeys(roots, roots[0]))
        examples.setdefault(roots[0], (texts[one], texts[other]))
    members: dict[str, list[str]] = defaultdict(list)
    for source in sorted(parent):
        members[root(source)].append(source)
    return [
        Duplicates(tuple(group), examples[first])
        for first, group in members.items()
        if len(group) > 1
    ]


def _alike(texts: Sequence[str], sources: Sequence[set[str]]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that are near-duplicates; a text is paired with itself if it has copies."""
    yield from ((n, n) for n, named in enumerate(sources) if 1 < len(named) <= RARE)
    holders: dict[Shingle, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for shingle in _shingles(text):
            holders[shingle].append(number)
    rare = [0] * len(texts)
    shared: Counter[tuple[int, int]] = Counter()
    for numbers in holders.values():
        if len(numbers) > 1 and len(set().union(*(sources[n] for n in numbers))) > RARE:
            continue
        for number in numbers:
            rare[number] += 1
        for a, b in combinations(numbers, 2):
            if len(sources[a] | sources[b]) > 1:
                shared[a, b] += 1
    for (a, b), common in sorted(shared.items()):
        if common >= ALIKE * (rare[a] + rare[b] - common):
            yield a, b


def normal(text: str) -> str:
    """``text`` without what copies differ in: case, spacing, compatibility forms."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _shingles(text: str) -> set[Shingle]:
    tokens = _TOKEN.findall(text)
    return set(zip(*(tokens[n:] for n in range(SHINGLE)), strict=False)) or {tuple(tokens)}
