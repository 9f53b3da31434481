"""A tokenizer that knows more tokens than one model's: those of other models, or of a recipe's rules.

It begins as that model's: every token of its own keeps its number, texts are cut as it cuts them. What the others
add follows, model by model, in the order of their numbers. Added tokens (of chat templates, say) can be added to
any tokenizer. Pieces, of which the tokenizers' own models make words, cannot: only where both cut texts alike, and
one's pieces are made as the other's are and then some, is there a tokenizer that gives either model what it knows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evomerge import __version__
from evomerge.cache import cache_folder, make_once, name_of
from evomerge.checkpoint import TOKENIZER, Checkpoint, beside, read_json, vocabulary
from evomerge.checkpoint.files import file_digest
from evomerge.errors import Incompatible

CONFIG = "tokenizer_config.json"
# beside tokenizer.json, which says all that the others say, these would be of the smaller vocabulary
_COPIED = (CONFIG, "special_tokens_map.json", "chat_template.jinja", "chat_template.json")
_PLAIN = {  # how a token that only a rule names is found in texts
    **{"single_word": False, "lstrip": False, "rstrip": False},
    **{"normalized": True, "special": False},
}


def lacking(first: Checkpoint, other: Checkpoint) -> list[str]:
    """The tokens that ``other`` has rows for and that ``first`` does not know, or not as added tokens."""
    known, theirs = vocabulary(first), vocabulary(other)  # which read both files whole
    rows = sorted((row, token) for token, row in theirs.items() if row < other.height)
    marked = _added(other) - _added(first)
    return [token for _, token in rows if token not in known or token in marked]


def united_folder(first: Checkpoint, others: Sequence[Checkpoint], tokens: Sequence[str]) -> Path:
    """A folder, in the user's cache, with the files of the tokenizer of ``first`` and all that it lacks.

    Args:
        first: has a tokenizer.
        others: models whose tokens are added.
        tokens: that are added, too.

    Raises:
        Incompatible: there is no such tokenizer; the reason is given.
        CheckpointError: a tokenizer cannot be read.
    """
    own = [
        path for name in (TOKENIZER, *_COPIED) if (path := first.tokenizer_folder / name).is_file()
    ]
    made_of = [
        *(__version__, list(tokens)),
        [(path.name, file_digest(path)) for path in own],
        [(file_digest(other.tokenizer_folder / TOKENIZER), other.height) for other in others],
    ]
    folder = cache_folder("tokenizers") / name_of(made_of)

    def make() -> None:
        content = united(first, others, tokens)
        with beside(folder) as work:
            for path in own:
                shutil.copyfile(path, work / path.name)
            (work / TOKENIZER).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            if (work / CONFIG).is_file():
                settings = _settings(read_json(work / CONFIG), content)
                (work / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    make_once(folder / TOKENIZER, make)
    return folder


def united(
    first: Checkpoint, others: Sequence[Checkpoint], tokens: Sequence[str]
) -> dict[str, Any]:
    """The content of its ``tokenizer.json``; see ``united_folder``."""
    content = _canonical(first)
    rows = _rows(content)
    added = {entry["content"] for entry in content["added_tokens"]}
    pieces: list[str] = []
    for other in others:
        theirs = _canonical(other)
        entries = {entry["content"]: entry for entry in theirs["added_tokens"]}
        new = lacking(first, other)
        own = [token for token in new if token not in entries and token not in rows]
        if own:
            _extend(content, theirs, f"{other.name} and {first.name}", own)
            pieces += own
        for token in new:
            rows.setdefault(token, max(rows.values()) + 1)
            if token in entries and token not in added:
                content["added_tokens"].append({**entries[token], "id": rows[token]})
                added.add(token)
    for token in tokens:
        if token not in rows:
            rows[token] = max(rows.values()) + 1
            content["added_tokens"].append({"content": token, "id": rows[token], **_PLAIN})
    content["added_tokens"].sort(key=lambda entry: entry["id"])
    if pieces:
        # the library numbers added tokens after the pieces, unless they are among them
        content["model"]["vocab"] |= {token: row for token, row in rows.items()}
    _check(content, rows, first)
    return content


def _extend(content: dict[str, Any], theirs: Mapping[str, Any], pair: str, own: list[str]) -> None:
    """Let the tokenizer in ``content`` make the pieces of another, too.

    Raises:
        Incompatible: no tokenizer does.
    """
    advice = (
        f"so there is no tokenizer with the pieces of both ({own[0]!r} and {len(own) - 1} more are of one only). "
        "Name one of the models as `tokenizer` instead: rows of tokens that others lack are filled in, what only "
        "they know is left out"
    )
    ours, other = content["model"], theirs["model"]
    if ours["type"] != other["type"]:
        raise Incompatible(
            f"{pair}: tokenizers are of different kinds, {other['type']} and {ours['type']}, {advice}"
        )
    for part in ("normalizer", "pre_tokenizer"):
        if content[part] != theirs[part]:
            raise Incompatible(f"{pair}: tokenizers differ in their {part}, {advice}")
    if ours["type"] not in ("BPE", "WordLevel", "WordPiece"):
        raise Incompatible(
            f"{pair}: {ours['type']} chooses pieces by scores of all of them, {advice}"
        )
    numbers = ("vocab", "merges")
    if differing := [key for key in ours if key not in numbers and ours[key] != other.get(key)]:
        raise Incompatible(f"{pair}: tokenizers differ in `{differing[0]}`, {advice}")
    merges, more = ours.get("merges", []), other.get("merges", [])
    if more[: len(merges)] == merges:
        merges = more
    elif merges[: len(more)] != more:
        where = next(
            n for n, (one, two) in enumerate(zip(merges, more, strict=False)) if one != two
        )
        raise Incompatible(
            f"{pair}: tokenizers make their pieces by different merges, from number {where + 1} on, {advice}"
        )
    if merges:
        ours["merges"] = merges


def _check(content: Mapping[str, Any], rows: Mapping[str, int], first: Checkpoint) -> None:
    """Refuse what the library that reads it takes for another vocabulary."""
    from tokenizers import Tokenizer

    with _told(f"{first.name}: its tokenizer takes no more tokens"):
        found = Tokenizer.from_str(json.dumps(content)).get_vocab(with_added_tokens=True)
    wrong = [token for token, row in rows.items() if found.get(token) != row]
    if wrong:
        raise Incompatible(
            f"{first.name}: its tokenizer takes no more tokens: {wrong[0]!r} would be number "
            f"{found.get(wrong[0])}, and its row is {rows[wrong[0]]}"
        )


def _canonical(model: Checkpoint) -> dict[str, Any]:
    """``tokenizer.json`` as this version of the library writes it: every key there, merges as pairs."""
    from tokenizers import Tokenizer

    path = model.tokenizer_folder / TOKENIZER
    with _told(f"{path}: not a tokenizer that can be added to"):
        content: dict[str, Any] = json.loads(Tokenizer.from_file(str(path)).to_str())
    return content


@contextmanager
def _told(message: str) -> Iterator[None]:
    """What the tokenizers library raises, as an error of ours; what it panics with is no Exception."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
            raise
        raise Incompatible(f"{message}: {error}") from None


def _rows(content: Mapping[str, Any]) -> dict[str, int]:
    vocab = content["model"]["vocab"]
    rows = (
        dict(vocab) if isinstance(vocab, dict) else {piece: n for n, (piece, _) in enumerate(vocab)}
    )
    return rows | {entry["content"]: entry["id"] for entry in content["added_tokens"]}


def _added(model: Checkpoint) -> set[str]:
    content = read_json(model.tokenizer_folder / TOKENIZER)
    return {entry["content"] for entry in content.get("added_tokens") or []}


def _settings(settings: dict[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """``tokenizer_config.json`` with the added tokens, where it lists them."""
    if "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] = {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
            for entry in content["added_tokens"]
        }
    return settings
