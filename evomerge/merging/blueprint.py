"""What a merged model looks like: its tensors, where each of them comes from, its config.

The merged head is tied if all parents tie theirs; otherwise a tied parent's head is a copy of its
embedding. A block may come from another depth of the parents, twice or not at all. Of parents of several kinds
the result is of one, see ``parents.kinds``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from evomerge.checkpoint import Donor, without_local_code
from evomerge.parents import Parents
from evomerge.tensors import Place, ordered

_NOT_MERGED = (  # of one parent's files only
    *("dtype", "torch_dtype", "quantization_config", "transformers_weights"),
)


@dataclass(frozen=True)
class Site:
    """A tensor of a merged model.

    Attributes:
        name: as transformers names the parameter.
        shape: of the tensor.
        place: its layer and role in the merged model.
        origin: parent -> the tensor of it that stands here; those of other kinds may have none.
    """

    name: str
    shape: tuple[int, ...]
    place: Place
    origin: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Blueprint:
    """See the module's text.

    Attributes:
        sites: in depth order.
        layers: blocks.
        ties: the name of a tied tensor -> that of the one it is.
        tied: whether the head is the embedding.
    """

    sites: tuple[Site, ...]
    layers: int
    ties: Mapping[str, str]
    tied: bool
    _config: Mapping[str, Any]

    @classmethod
    def of(cls, parents: Parents, blocks: Sequence[int] | None = None) -> Blueprint:
        """What merges of ``parents`` look like: as their frame, but for what belongs to tokens.

        Args:
            parents: the models.
            blocks: which block of the parents each block of the result is; default: each its own.
        """
        whole = _whole(parents)
        ties = dict(parents.models[whole].ties)
        apart = [name for name in ties if _is_apart(parents, name)]
        for name in apart:
            del ties[name]
        own = range(parents.frame.layers)
        blocks = own if blocks is None else blocks
        copies: dict[int | None, list[int | None]] = {None: [None]}
        for layer, block in enumerate(blocks):
            copies.setdefault(block, []).append(layer)
        moved = [
            (_moved(place, layer, len(blocks)), name)
            for name, place in parents.places(whole, apart).items()
            for layer in copies.get(place.layer, ())
        ]
        places = {place.tensor: place for place, _ in moved}
        origin = {place.tensor: name for place, name in moved}
        sites = tuple(
            _site(parents, places[name], parents.shape(whole, origin[name]), origin[name])
            for name in ordered(places)
        )
        tied = any(parents.models[whole].place_of(name).role == "head" for name in ties)
        config = _config(parents, whole, tied, list(blocks))
        return cls(sites, len(blocks), ties, tied, config)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the sites."""
        return tuple(site.name for site in self.sites)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of the sites, by name."""
        return {site.name: site.shape for site in self.sites}

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Of the sites, by name."""
        return {site.name: site.place for site in self.sites}

    def config(self) -> Mapping[str, Any]:
        """``config.json``, but for the dtype."""
        return self._config


def _whole(parents: Parents) -> str:
    """Of the models of the frame's kind one that has all tensors of the result: the first that ties no head."""
    kin = {n: m for n, m in parents.models.items() if m.architecture == parents.frame.architecture}
    return next((name for name, model in kin.items() if not model.tied), parents.frame_name)


def _is_apart(parents: Parents, name: str) -> bool:
    """Whether a model of another kind has a tensor of its own where the frame's is tied to another."""
    kind = parents.frame.architecture
    others = {n: model for n, model in parents.models.items() if model.architecture != kind}
    return any(parents.own_name(n, name) in model.places for n, model in others.items())


def _site(parents: Parents, place: Place, shape: tuple[int, ...], origin: str) -> Site:
    """The tensor that the frame's kind calls ``origin`` where ``place`` is."""
    names = {model: parents.own_name(model, origin) for model in parents.models}
    found = {model: own for model, own in names.items() if own is not None}
    absent = frozenset(set(names) - set(found))
    return Site(place.tensor, shape, replace(place, absent=absent), found)


def _moved(place: Place, layer: int | None, layers: int) -> Place:
    """The same place in a block of another number, in a model of so many ``layers``."""
    tensor = place.tensor if layer is None else place.at(layer)
    return replace(place, layer=layer, layers=layers, tensor=tensor)


def notes_on(parents: Parents) -> list[str]:
    """What merging such parents changes in them, a line each; nothing if they are alike."""
    tied = [name for name, model in parents.models.items() if model.tied]
    if not tied or len(tied) == len(parents.models):
        return parents.notes()
    note = f"{', '.join(tied)}: the head is a copy of the embedding, others do not tie"
    return [*parents.notes(), note]


def _config(parents: Parents, whole: str, tied: bool, blocks: list[int]) -> dict[str, Any]:
    first = parents.frame
    content = {
        key: value
        for key, value in without_local_code(first.config).items()
        if not key.endswith("_token_id") and key not in _NOT_MERGED
    }
    if parents.donor.model.architecture != first.architecture:
        content |= _special_tokens(first)  # of images, say, which the donor knows nothing of
    content |= _special_tokens(parents.donor)
    text = _text_part(content)
    if parents.models[whole].has_head:
        content["tie_word_embeddings"] = tied
        if "tie_word_embeddings" in text:
            text["tie_word_embeddings"] = tied
    if blocks != list(range(first.layers)):
        text["num_hidden_layers"] = len(blocks)
        if isinstance(kinds := text.get("layer_types"), list):
            text["layer_types"] = [kinds[block] for block in blocks]
    # by as many as the rows of the embedding, which may be more than there are tokens
    rows = parents.height - first.rows
    if rows or "vocab_size" in text:
        text["vocab_size"] = text.get("vocab_size", first.rows) + rows
    return content


def _text_part(content: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that is about the text model, copied where it lies inside."""
    inner = content.get("text_config")
    if isinstance(inner, dict):
        content["text_config"] = dict(inner)
        return content["text_config"]  # type: ignore[no-any-return]
    return content


def _special_tokens(model: Donor) -> dict[str, Any]:
    """The token ids (bos, eos, pad, ...) in a model's config."""
    return {key: value for key, value in model.config.items() if key.endswith("_token_id")}
