"""What a merged model looks like: its tensors, where each of them comes from, its config.

The merged head is tied if all parents tie theirs; otherwise a tied parent's head is a copy of its
embedding. A recipe's path (``evomerge.paths``) lines up blocks of the merge, or of single models: each may stand at
another depth, twice or not at all. Of parents of several kinds the result is of one, see ``parents.kinds``.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from evomerge.checkpoint import Donor, without_local_code
from evomerge.errors import Incompatible
from evomerge.parents import Parents
from evomerge.paths import Hop, Path, factors_of
from evomerge.skeleton import depth, residual, text_part
from evomerge.skeleton.modules import KERNELS
from evomerge.tensors import Place, ordered

_NOT_MERGED = (  # of one parent's files only
    *("dtype", "torch_dtype", "quantization_config", "transformers_weights"),
    *KERNELS,
)


@dataclass(frozen=True)
class Site:
    """A tensor of a merged model.

    Attributes:
        name: as transformers names the parameter.
        shape: of the tensor.
        place: its layer and role in the merge, of which a path may take a block elsewhere.
        origin: parent -> the tensor of it that stands here; those of other kinds may have none.
        model: whose tensor it is, as it is; None for the merge's.
        factor: what the merged tensor is multiplied by.
    """

    name: str
    shape: tuple[int, ...]
    place: Place
    origin: Mapping[str, str]
    model: str | None = None
    factor: float = 1.0

    @property
    def content(self) -> tuple[str, str | None, float]:
        """What stands here: equal for two sites of a merge that hold the same."""
        return self.place.tensor, self.model, self.factor

    @property
    def packed(self) -> bool:
        """True where it holds experts along its first axis: they are merged one by one, as where they are stored so."""
        inner = self.place.inner
        if self.place.role != "expert" or any(part.isdigit() for part in inner.split(".")):
            return False
        return len(self.shape) > 2 or (len(self.shape) == 2 and inner.endswith("bias"))


@dataclass(frozen=True, eq=False)
class Blueprint:
    """See the module's text.

    Attributes:
        sites: in depth order.
        ties: the name of a tied tensor -> that of the one it is.
        tied: whether the head is the embedding.
        path: the blocks, in order.
    """

    sites: tuple[Site, ...]
    ties: Mapping[str, str]
    tied: bool
    path: Path
    _config: Mapping[str, Any]
    _merge: Blueprint | None

    @classmethod
    def of(cls, parents: Parents, path: Sequence[Hop] | None = None) -> Blueprint:
        """What merges of ``parents`` look like: as their frame, but for what belongs to tokens.

        Args:
            parents: the models.
            path: the blocks of the result; default: all, in order.

        Raises:
            Incompatible: the models have no such block, or it cannot stand where the path has it.
        """
        whole = _whole(parents)
        ties = dict(parents.models[whole].ties)
        apart = [name for name in ties if _is_apart(parents, name)]
        for name in apart:
            del ties[name]
        own = tuple(Hop(layer) for layer in range(parents.frame.layers))
        path = own if path is None else tuple(path)
        merge = None if path == own else cls.of(parents)
        tied = any(parents.models[whole].place_of(name).role == "head" for name in ties)
        config = _config(parents, whole, tied, path)
        standing: dict[int | None, list[int | None]] = {None: [None]}
        for step, hop in enumerate(path):
            standing.setdefault(hop.layer, []).append(step)
        factors = _factors(parents, path)
        places = parents.places(whole, apart)
        if len(path) != len(own) and (behind := _numbered_behind(places)):
            raise Incompatible(
                f"path: {whole} holds {behind} behind its blocks, numbered as one: a head for further tokens, say, which is "
                f"looked for right behind the last block, and would not be one with {len(path)} blocks; expected a path "
                f"of {len(own)} blocks, or models without such a head"
            )
        sites: dict[str, Site] = {}
        moved: dict[str, Place] = {}
        for name, place in places.items():
            site = _site(parents, place, parents.shape(whole, name), name)
            for number in standing.get(place.layer, ()):
                at = _moved(place, number, len(path))
                moved[at.tensor] = at
                sites[at.tensor] = replace(
                    site,
                    name=at.tensor,
                    model=None if number is None else path[number].model,
                    factor=factors[number] if number is not None and residual.adds(name) else 1.0,
                )
        made = tuple(sites[name] for name in ordered(moved))
        return cls(made, ties, tied, path, config, merge)

    @property
    def layers(self) -> int:
        """Blocks."""
        return len(self.path)

    @property
    def merge(self) -> Blueprint:
        """Of the merge before its path: groups and row weights are of its tensors."""
        return self._merge or self

    @property
    def blocks(self) -> tuple[Hashable, ...]:
        """What each block holds: equal ones hold the same, in all models of these parents."""
        return tuple(
            (hop.layer, hop.model, factor)
            for hop, factor in zip(self.path, factors_of(self.path), strict=True)
        )

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
        """Of the sites in the merge before its path, by name."""
        return {site.name: site.place for site in self.sites}

    @cached_property
    def again(self) -> Mapping[str, str]:
        """Name of a tensor -> of the first one that holds the same, where a path has a block twice."""
        first: dict[tuple[str, str | None, float], str] = {}
        for site in self.sites:
            first.setdefault(site.content, site.name)
        return {s.name: first[s.content] for s in self.sites if first[s.content] != s.name}

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


def _numbered_behind(places: Mapping[str, Place]) -> str:
    """The first tensor that has a number among the blocks and belongs to none; empty if there is none."""
    inside = ((name, place.layer) for name, place in places.items() if place.layer is not None)
    lists = {name.partition(f".{layer}.")[0] for name, layer in inside}
    numbered = (
        re.compile(rf"(?:{'|'.join(map(re.escape, sorted(lists)))})\.\d+\.") if lists else None
    )
    outside = (name for name, place in places.items() if place.layer is None)
    return next((name for name in outside if numbered and numbered.match(name)), "")


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


def _factors(parents: Parents, path: Path) -> list[float]:
    """By what the scales of a path multiply that which each of its blocks adds.

    Raises:
        Incompatible: in these models that is not the same as scaling the hidden state.
    """
    found = factors_of(path)
    first = parents.frame
    if any(factor != 1.0 for factor in found) and not residual.scales(first.config, first.name):
        raise Incompatible(
            f"path: a scale between blocks cannot be written into the weights of {first.architecture}: its blocks add "
            "something else than what a matrix makes of a normalised hidden state, or none of them runs alone, so that "
            "it could be tried; leave `scale` out"
        )
    return found


def _config(parents: Parents, whole: str, tied: bool, path: Path) -> dict[str, Any]:
    first = parents.frame
    blocks = [hop.layer for hop in path]
    usual = blocks == list(range(first.layers))
    known = depth.of_blocks(first.config, blocks, first.name if usual else f"path: {first.name}")
    content = {
        key: value
        for key, value in without_local_code(known).items()
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
    # by as many as the rows of the embedding, which may be more than there are tokens
    rows = parents.height - first.rows
    if rows or "vocab_size" in text:
        text["vocab_size"] = text.get("vocab_size", first.rows) + rows
    return content


def _text_part(content: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that is about the language model, copied where it lies inside."""
    text = text_part(content)
    if text is content:
        return content
    content["text_config"] = copied = dict(text)
    return copied


def _special_tokens(model: Donor) -> dict[str, Any]:
    """The token ids (bos, eos, pad, ...) in a model's config."""
    return {key: value for key, value in model.config.items() if key.endswith("_token_id")}
