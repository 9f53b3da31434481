"""A first run.yaml, written from what the models are."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from evomerge import config, presets
from evomerge.checkpoint import Checkpoint, ModelRef, read_json, same_tokenizer, vocabulary
from evomerge.commands.card import front_matter
from evomerge.commands.choice import Choice, Facts, Wishes, choose
from evomerge.commands.code import Tasks, read_tasks
from evomerge.errors import InputError, problems_of
from evomerge.merging import outline_model
from evomerge.recipe import BASE
from evomerge.record.events import JOURNAL
from evomerge.report.card import CARD
from evomerge.run.preflight import inspect
from evomerge.run.spec import NAME, run_of
from evomerge.visible import one_line

CODES = {"ind": "id", "tha": "th", "vie": "vi", "eng": "en", "zho": "zh", "jpn": "ja", "deu": "de"}


def new(
    folder: Path,
    base: str,
    sources: Mapping[str, str],
    wishes: Wishes,
    *,
    force: bool = False,
) -> list[str]:
    """Write ``folder/run.yaml``, a job that ``check`` accepts as far as it can be told without downloads.

    Args:
        folder: made if it is not there.
        base, sources: models as the user named them, from the working directory.
        wishes: what the user decided.
        force: replaces a run.yaml, but never one whose search was begun.

    Returns:
        What was chosen and why, and what to do next, a line each.

    Raises:
        InputError: the models cannot be merged, nothing fits them, or the file exists. Nothing was written.
    """
    file = folder / NAME
    if (folder / JOURNAL).exists():
        raise InputError(f"{folder}: a search was begun there; choose another folder")
    if os.path.lexists(file) and not force:
        raise InputError(
            f"{file}: exists already; choose another folder, or replace it with --force"
        )
    if BASE in sources:
        raise InputError(
            f"--source {BASE}={sources[BASE]}: {BASE!r} is the base's own name; call the source something else"
        )
    models = {BASE: base, **sources}
    refs = {name: ModelRef(text) for name, text in models.items()}
    opened = {name: outline_model(ref) for name, ref in refs.items()}
    facts = [facts_of(name, models[name], opened[name], opened[BASE]) for name in models]
    choice = choose(facts[0], facts[1:], wishes)
    places = {name: _portable(ref, folder) for name, ref in refs.items()}
    draft = _text(folder, places, choice, Tasks())
    try:
        spec = run_of(config.parse(draft, str(file.absolute())))
        tasks = read_tasks(spec.suite)
        unbuilt = [s.name for s in spec.suite.scorers if s.kind in ("task", "function")]
        inspect(spec, unbuilt, tokenizer=True)
    except InputError as error:
        told = "\n".join(problems_of(error))
        raise InputError(f"{told}\nNothing was written.") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(file, _text(folder, places, choice, tasks))
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from None
    return [*_told(facts, choice, tasks), f"wrote {file}", *_next(folder)]


def facts_of(name: str, text: str, model: Checkpoint, base: Checkpoint) -> Facts:
    """What a model's files, card and names tell of it."""
    more = 0
    if model is not base and not same_tokenizer(model, base):
        more = len(vocabulary(model).keys() - vocabulary(base).keys())
    return Facts(
        name,
        text,
        model.parameters,
        languages=card_languages((model.adapter or model).folder / CARD),
        template=_has_template(model.tokenizer_folder),
        adapter=model.adapter is not None,
        has_head=model.has_head,
        vision="vision_config" in model.config,
        more_tokens=more,
    )


def card_languages(card: Path) -> tuple[str, ...]:
    """The languages that a model card names in its head, as codes of two letters; none where it says none."""
    found = front_matter(card).get("language")
    listed = found if isinstance(found, list) else [found]
    codes = [CODES.get(each, each) for each in listed if isinstance(each, str)]
    return tuple(code for code in codes if len(code) == 2 and code.isalpha())


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings).get("chat_template"))


def _portable(ref: ModelRef, folder: Path) -> str:
    """How the run.yaml in ``folder`` names a model: relative where both lie below the working directory."""
    here = os.getcwd()

    def part(text: str) -> str:
        path = ModelRef(text).portable
        if not os.path.isabs(path):  # of the hub, or embedded
            return path
        inside = all(os.path.commonpath([here, os.path.abspath(p)]) == here for p in (path, folder))
        return os.path.relpath(path, folder) if inside else path

    found = "+".join(part(text) for text in ref.parts)
    return found if "/" in found or ":" in found else f"./{found}"


def _text(folder: Path, places: Mapping[str, str], choice: Choice, tasks: Tasks) -> str:
    """The run.yaml."""
    why = {key: one_line(text) for key, text in choice.why.items()}
    name = one_line(shlex.quote(str(folder)))
    sources = [f"    {_said(n)}: {_said(text)}" for n, text in places.items() if n != BASE]
    if choice.fitness is None:
        files = [(n, _path(text, folder)) for n, text in choice.texts.items()]
        wanted = ["fitness:", "  objectives:"]
        wanted += [f"    {_said(n)}: {{text: {_said(text)}}}" for n, text in files]
    else:
        wanted = [f"fitness: {_said(_reference(choice.fitness, folder))}"]
    lines = [
        f"# Written by `evomerge new`. Look it over; then `evomerge check {name}`, then `evomerge search {name}`.",
        "",
        "models:",
        f"  base: {_said(places[BASE])}",
        "  sources:",
        *sources,
        f"  tokenizer: {_said(choice.tokenizer)}  # {why['tokenizer']}",
        "",
        f"# What may vary: {why['space']}. `evomerge new --list` shows others.",
        f"space: {_said(_reference(choice.space, folder))}",
        "",
        f"# What is wanted: {why['fitness']}.",
        *[f"# {line}" for line in _downloads(tasks)],
        *wanted,
        "",
        f"# How many merges are scored, base and parents too: {why['budget']}.",
        f"budget: {{evaluations: {choice.evaluations}}}",
        "",
        "# Names every random draw: the same file gives the same result.",
        "seed: 0",
    ]
    return "\n".join(lines) + "\n"


def _said(text: str) -> str:
    """A text as YAML, on one line."""
    return config.dump(text, width=2**20).removesuffix("...\n").rstrip("\n")


def _reference(text: str, folder: Path) -> str:
    """A preset's name, or a file from the working directory, as the run.yaml names it."""
    return text if presets.is_name(text) else _path(text, folder)


def _path(text: str, folder: Path) -> str:
    """A file from the working directory, as the run.yaml names it."""
    path = os.path.expanduser(text)
    if not folder.is_dir():  # of a draft, from which no way leads out
        return os.path.abspath(path)
    found = os.path.relpath(path, folder)
    return found if "/" in found else f"./{found}"


def _downloads(tasks: Tasks) -> list[str]:
    """Data sets that its tasks download, and are not in the hub's cache."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    lacking = [
        d for d in tasks.downloads if not (cache / f"datasets--{d.replace('/', '--')}").is_dir()
    ]
    if not lacking:
        return []
    return [
        f"Downloads first, as they are not in the cache: {one_line(', '.join(lacking))}.",
        "Without a network: `evomerge new` with --texts NAME=FILE measures bits per byte of texts of yours.",
    ]


def _told(facts: Sequence[Facts], choice: Choice, tasks: Tasks) -> list[str]:
    def model(each: Facts) -> str:
        told = [
            f"languages {', '.join(sorted(each.spoken))}" if each.spoken else "",
            "follows instructions" if each.chats else "",
            "reasons at length" if each.reasons else "",
            "an adapter" if each.adapter else "",
            f"{each.more_tokens:,} tokens more than the base" if each.more_tokens else "",
        ]
        return f"{each.name}: {each.text}" + "".join(f"; {fact}" for fact in told if fact)

    adapters = all(each.adapter for each in facts[1:]) and not facts[0].adapter
    return [
        *map(model, facts),
        f"tokenizer {choice.tokenizer}: {choice.why['tokenizer']}",
        f"space {choice.space}: {choice.why['space']}",
        f"fitness {choice.fitness or ', '.join(choice.texts)}: {choice.why['fitness']}",
        *(line[0].lower() + line[1:] for line in _downloads(tasks)[:1]),
        f"budget {choice.evaluations} evaluations: {choice.why['budget']}",
        *(
            [
                "all sources are adapters: `evomerge merge DIR --as-adapter` writes the winner as one, too"
            ]
            if adapters
            else []
        ),
    ]


def _next(folder: Path) -> list[str]:
    name = shlex.quote(str(folder))
    return [
        f"look it over (`evomerge check {name}`), then: evomerge search {name}",
        f"and then: evomerge merge {name} -o merged-model",
    ]
