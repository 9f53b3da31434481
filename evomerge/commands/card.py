"""What a merge's card is made from: the recipe, and what the cards of its parents say; and the card into a folder.

A parent's README.md is a stranger's file: of its metadata the licence and the languages are read, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.checkpoint import ModelRef, locate, read_json
from evomerge.checkpoint.sentence_modules import MODULES
from evomerge.checkpoint.weights import ADAPTER_CONFIG, ROUTER
from evomerge.errors import InputError
from evomerge.plain_files import open_plain
from evomerge.recipe import BASE, Recipe
from evomerge.report.card import CARD, PICTURE, Facts, Parent, card_of, is_hub_id, shown_name
from evomerge.report.licences import OTHER, Licence
from evomerge.report.recipe_picture import recipe_picture
from evomerge.skeleton import Skeleton, check_architecture

CONFIG = "config.json"
MOST = 1 << 20  # bytes of a card that are read
FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)
_LANGUAGE = re.compile(r"^[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*$", re.ASCII)
_LINK = re.compile(r"^(?:https://[\x21-\x7e]{1,200}|[\w.-]{1,60})$", re.ASCII)
_NAME = re.compile(r"^[\w.+ -]{1,60}$", re.ASCII)


def write_card(folder: Path, recipe: Recipe, title: str, licence: Licence | None = None) -> None:
    """Write the card of a merge, and its picture, into its folder.

    Args:
        folder: that holds all else of it.
        recipe: that it is a merge of.
        title: of the card.
        licence: as the user says; None: what all parents agree on.
    """
    first = _config_of(recipe)
    skeleton = Skeleton.of(first, "config.json")
    picture = recipe_picture(recipe, list(skeleton.places.values()))
    own = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else first
    facts = Facts(
        title=title,
        kind=kind_of(folder),
        recipe=recipe,
        parents=tuple(parents_of(recipe)),
        architecture=check_architecture(own, title),
        library=_library(folder),
        licence=licence,
        picture=picture is not None,
    )
    if picture is not None:
        (folder / PICTURE).write_text(picture, encoding="utf-8")
    (folder / CARD).write_text(card_of(facts), encoding="utf-8")


def carded(recipe: Recipe, out: str | Path, licence: Licence | None) -> Callable[[Path], None]:
    """What a merge calls with its folder before that takes its name."""
    return lambda folder: write_card(folder, recipe, Path(out).absolute().name, licence)


def kind_of(folder: Path) -> str:
    """``model``, ``adapter`` or ``experts``; empty for a folder of none of them."""
    for file, kind in ((ROUTER, "experts"), (ADAPTER_CONFIG, "adapter"), (CONFIG, "model")):
        if (folder / file).is_file():
            return kind
    return ""


def parents_of(recipe: Recipe) -> Iterator[Parent]:
    """What a recipe merges, the base first; instead of a recipe that stands for a model what that merges."""
    models = {**({BASE: recipe.base} if recipe.base else {}), **recipe.models}
    for name, ref in models.items():
        if ref.is_recipe:
            for inner in parents_of(Recipe.load(ref.portable)):
                yield replace(inner, name=f"{name}: {inner.name}")
        else:
            yield _parent(name, ref)


def _parent(name: str, ref: ModelRef) -> Parent:
    ids, licences, languages = list[str](), dict[str, Licence](), list[str]()
    adapts = ""
    for part in ref.parts:
        own = ModelRef(part, ref.origin)
        said = front_matter(locate(part, ref.origin) / CARD)
        licences[shown_name(own)] = _licence(said)
        languages += _languages(said)
        repository = part.partition("@")[0]
        if own.portable == part and is_hub_id(repository):
            ids.append(repository)
            adapts = repository if part == ref.model else adapts
    return Parent(
        name,
        shown_name(ref),
        tuple(ids),
        licences,
        tuple(dict.fromkeys(languages)),
        adapts,
    )


def front_matter(card: Path) -> Mapping[str, Any]:
    """The metadata at the top of a card; nothing where there is none that can be read."""
    try:
        with open_plain(card) as file:
            text = file.read(MOST).decode("utf-8-sig")
        found = FRONT.match(text)
        plain = config.parse(found[1], str(card)).plain if found else {}
    except (OSError, ValueError, InputError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _licence(said: Mapping[str, Any]) -> Licence:
    found = said.get("license")
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, str) or not _NAME.match(found):
        return Licence()
    name, link = said.get("license_name"), said.get("license_link")
    if found.lower() != OTHER:
        return Licence(found.lower())
    return Licence(
        OTHER,
        name if isinstance(name, str) and _NAME.match(name) else "",
        link if isinstance(link, str) and _LINK.match(link) else "",
    )


def _languages(said: Mapping[str, Any]) -> list[str]:
    found = said.get("language")
    listed = found if isinstance(found, list) else [found]
    return [each for each in listed if isinstance(each, str) and _LANGUAGE.match(each)]


def _config_of(recipe: Recipe) -> Mapping[str, Any]:
    """The config of a recipe's first model, the base where there is one."""
    ref = recipe.base or next(iter(recipe.models.values()))
    if ref.is_recipe:
        return _config_of(Recipe.load(ref.portable))
    return read_json(locate(ref.model, ref.origin) / CONFIG)


def _library(folder: Path) -> str:
    if (folder / MODULES).is_file():
        return "sentence-transformers"
    return "transformers" if kind_of(folder) == "model" else "peft"
