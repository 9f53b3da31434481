"""Whether what a model writes ends: its end tokens, where four files say what they are.

A model stops at the end tokens of its generation config, or without that of its config. It was trained to
write the one of its tokenizer after a text, and after an answer the one of its chat template. Where these are
not among the first, it goes on until the limit of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint import Checkpoint, read_json, vocabulary
from evomerge.checkpoint.companions import GENERATION
from evomerge.recipe import BASE
from evomerge.skeleton import text_part

TOKENIZER, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_ANSWER = "evomerge"  # stands for what a model answers
_TALK = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


def ending_notes(models: Mapping[str, Checkpoint], donor: str) -> list[str]:
    """What merges with the end tokens of ``donor`` never stop at, though the models write it, a line each."""
    model = models[donor]
    tokens = vocabulary(model)
    stops, file = stops_of(model)
    if not stops:
        return [
            f"{donor} ({model.name}): neither {GENERATION} nor config.json names an end token (eos_token_id): "
            "what a merge writes never stops"
        ]
    named = {row: token for token, row in tokens.items()}
    told = f"{file} of {donor} stops at {', '.join(_token(named, row) for row in stops)}"
    notes = []
    if tokens and not any(row in named for row in stops):
        notes.append(f"{told}, which its tokenizer does not have: what a merge writes never stops")
    own = special(model).get("eos_token")
    if own in tokens and tokens[own] not in stops:
        notes.append(
            f"{told}, but the end token of its tokenizer is {_token(named, tokens[own])}: texts never stop there"
        )
    ends: dict[str, list[str]] = {}
    for name, each in models.items():
        # a base may have a template that it never learnt
        if (name != BASE or name == donor) and (last := end_of_turn(each)):
            ends.setdefault(last, []).append(name)
    for last, names in ends.items():
        if tokens and tokens.get(last) not in stops:
            whose = ", ".join(names)
            notes.append(
                f"{told}, but the chat template of {whose} ends an answer with {last!r}: answers never stop there"
            )
    configured = _rows(_text(model.config))
    if file == GENERATION and configured and not set(configured) & set(stops):
        other = ", ".join(_token(named, row) for row in configured)
        notes.append(
            f"{told}, but its config.json at {other}: where only one of the two is read, some texts never stop"
        )
    return notes


def stops_of(model: Checkpoint) -> tuple[list[int], str]:
    """The rows of the tokens that a model stops at, and the file that says so."""
    said = _rows(_json(model.folder / GENERATION))
    return (said, GENERATION) if said else (_rows(_text(model.config)), "config.json")


def special(model: Checkpoint) -> dict[str, str]:
    """``eos_token`` and the like, as the tokenizer's config spells them."""
    said = _json(model.folder / TOKENIZER)
    found = {}
    for name in _NAMES:
        token = said.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return found


def end_of_turn(model: Checkpoint) -> str | None:
    """The special token that the chat template writes after an answer; None if there is none.

    The template is rendered as transformers renders it, in a sandbox.
    """
    template = template_of(model)
    if template is None:
        return None
    known = special(model)
    rest = _rendered(template, known).partition(_ANSWER)[2].lstrip()
    marks = {*_added(model), *known.values()}
    return max((mark for mark in marks if mark and rest.startswith(mark)), key=len, default=None)


def _rendered(template: str, known: Mapping[str, str]) -> str:
    """A question and its answer as the template writes them; empty where it refuses to."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, _ = render_jinja_template(
            conversations=[_TALK], chat_template=template, add_generation_prompt=False, **known
        )
        return str(texts[0])
    except Exception:  # whatever a template raises
        return ""


def template_of(model: Checkpoint) -> str | None:
    path = model.folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
    said = _json(model.folder / TOKENIZER).get("chat_template")
    if isinstance(said, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in said if isinstance(each, dict)}
        said = named.get("default")
    return said if isinstance(said, str) else None


def _added(model: Checkpoint) -> list[str]:
    """The tokens that are no pieces of text, such as those a template is made of."""
    added = _json(model.folder / "tokenizer.json").get("added_tokens")
    found = [each.get("content") for each in added or () if isinstance(each, dict)]
    return [each for each in found if isinstance(each, str)]


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that names the end token: the whole, or that of the language model."""
    return text_part(config) if config.get("eos_token_id") is None else config


def _rows(said: Mapping[str, Any]) -> list[int]:
    rows = said.get("eos_token_id")
    rows = rows if isinstance(rows, list) else [rows]
    return [row for row in rows if isinstance(row, int) and not isinstance(row, bool)]


def _token(named: Mapping[int, str], row: int) -> str:
    return f"{named[row]!r} ({row})" if row in named else str(row)
