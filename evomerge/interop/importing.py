"""mergekit YAML in: the recipe that gives the tensors mergekit gives, or a refusal with the reason.

Values are resolved tensor by tensor and then grouped. The arithmetic differs: mergekit computes
most methods in the file's ``dtype``, evomerge in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge import config, methods, recipe
from evomerge.checkpoint import DTYPES, ModelRef
from evomerge.errors import ConfigError, one_of
from evomerge.interop.anatomy import UNKNOWN_DEPTH, Anatomy, read_anatomy
from evomerge.interop.blends import Blend, Resolver
from evomerge.interop.catalogue import PEERS
from evomerge.interop.document import Document, parse_document
from evomerge.interop.layout import groups_of
from evomerge.interop.naming import name_models
from evomerge.recipe import BASE, Body, Group, Recipe


def recipe_of(nodes: Sequence[config.Node], layers: int | None = None) -> tuple[Recipe, list[str]]:
    """The recipe of a mergekit file, and what a reader of it should know.

    Args:
        nodes: its documents.
        layers: depth of the models, for files that need it and models that are not at hand.

    Raises:
        ConfigError: it is no file for mergekit, or says what a recipe cannot; all problems at once.
    """
    problems = config.Problems()
    parsed = [parse_document(node, problems) for node in nodes]
    problems.check()
    documents = [document for document in parsed if document is not None]
    parts = {document.name: document for document in documents if document.name}
    last = _last(documents)
    model = next((name for name in _mentioned(documents) if name not in parts), "")
    if not model:
        raise ConfigError([f"{last.node.file}: names no model but its own merges"])
    anatomy = read_anatomy(ModelRef(model))
    anatomy = replace(anatomy, layers=anatomy.layers or layers)
    resolver = Resolver(parts, anatomy, problems)
    blends = resolver.resolve(last)
    problems.check()
    return _Assembler(documents, last, anatomy, resolver.layers, model).recipe(blends)


def _last(documents: Sequence[Document]) -> Document:
    """The document that makes the model: the only one, or the one without a name."""
    if len(documents) == 1:
        return documents[0]
    unnamed = [document for document in documents if document.name is None]
    names = [document.name for document in documents if document.name]
    if len(unnamed) == 1 and len(set(names)) == len(names):
        return unnamed[0]
    raise ConfigError(
        [
            f"{documents[0].node.file}: holds {len(documents)} merges, of which {len(unnamed)} have no name; "
            "expected one without, which puts together the others, whose names differ"
        ]
    )


def _mentioned(documents: Iterable[Document]) -> Iterable[str]:
    for document in documents:
        yield from (source.model for part in document.slices for source in part.sources)
        if document.base:
            yield document.base


class _Assembler:
    """Makes the recipe of what was resolved."""

    def __init__(
        self,
        documents: Sequence[Document],
        last: Document,
        anatomy: Anatomy,
        layers: int,
        model: str,
    ) -> None:
        self.documents, self.last, self.anatomy, self.layers = documents, last, anatomy, layers
        self.file = last.node.file
        self.notes = [note for document in documents for note in document.notes]
        if anatomy.skeleton is None and any(b.filter for d in documents for b in d.branches):
            self.notes.append(
                f"{model} is not at hand: filters are read for models without biases and without norms "
                "inside attention"
            )

    def recipe(self, blends: Mapping[str, Blend]) -> tuple[Recipe, list[str]]:
        base = self._base(blends)
        tokenizer = self._tokenizer(base)
        references = dict.fromkeys(m for blend in blends.values() for m in blend.models)
        if tokenizer:
            references.setdefault(tokenizer)
        names = name_models([reference for reference in references if reference != base])
        sources = {name: ModelRef(ModelRef(ref).portable) for ref, name in names.items()}
        if base:
            names[base] = BASE
        groups = {tensor: self._group(blend, names) for tensor, blend in blends.items()}
        donor = names[tokenizer] if tokenizer else next(iter(names.values()))
        if tokenizer is None:
            self.notes.append(
                f"mergekit would take the tokenizer of any of the models; here it is that of {donor}"
            )
        made = Recipe(
            ModelRef(ModelRef(base).portable) if base else None,
            sources,
            Body(self._grouped(groups)),
            self._dtype(),
            tokenizer=donor,
        )
        return made, list(dict.fromkeys(self.notes))

    def _base(self, blends: Mapping[str, Blend]) -> str | None:
        bases = {blend.base: None for blend in blends.values() if blend.base}
        if len(bases) > 1:
            raise ConfigError(
                [f"{self.file}: base_model: a recipe has one base, this file {' and '.join(bases)}"]
            )
        return next(iter(bases), None) or self.last.base

    def _tokenizer(self, base: str | None) -> str | None:
        """The model whose tokenizer the merge takes, None if mergekit's choice is arbitrary."""
        parts = {document.name: document for document in self.documents if document.name}
        given = self.last.tokenizer
        if given in parts:
            given = parts[given].tokenizer
        given = given or next((d.tokenizer for d in self.documents if d.tokenizer), None)
        if given == "union":
            raise ConfigError(
                [
                    f"{self.file}: tokenizer: evomerge makes no union of vocabularies; name the model whose "
                    "tokenizer and vocabulary the merge takes (tokens that others lack are filled in)"
                ]
            )
        return base if given in (None, "base") else given

    def _group(self, blend: Blend, names: Mapping[str, str]) -> Group:
        """What a recipe says of one tensor."""
        models = [names[model] for model in blend.models]
        values: dict[str, Any] = {}
        for name, value in PEERS[blend.method].to_ours(blend.values).items():
            each = isinstance(value, Mapping)
            values[name] = {names[m]: v for m, v in value.items()} if each else value
        method = methods.get(blend.method)
        found = [f"{key}: {text}" for key, text in method.problems(values, models)]
        if problem := method.arity_problem(len(models), blend.base is not None):
            found.append(problem)
        if found:
            raise ConfigError([f"{self.file}: {text}" for text in found])
        return recipe.group(blend.method, models, values)

    def _grouped(self, groups: Mapping[str, Group]) -> tuple[Group, ...]:
        places = self.anatomy.places(self.layers)
        sliced = self.last.slices[0].sources[0].layers is not None
        unknown = self.anatomy.layers is None
        found = groups_of(groups, places, self.layers, ranged=sliced and unknown)
        if unknown and not sliced and any(group.layers or group.tensors for group in found):
            what = (
                "norms of a block"
                if any(group.tensors for group in found)
                else "the norms of blocks and the final norm"
            )
            raise ConfigError([f"{self.file}: {what} differ, and {UNKNOWN_DEPTH}"])
        return found

    def _dtype(self) -> str:
        given = self.last.dtype or next((d.dtype for d in self.documents if d.dtype), None)
        found = given or self.anatomy.dtype
        if found is None:
            self.notes.append(
                "mergekit would keep the dtype of the models; it is not known here, so check `dtype`"
            )
        if found and found not in DTYPES:
            raise ConfigError([f"{self.file}: dtype: expected {one_of(DTYPES)}, found {found!r}"])
        return found or "bfloat16"
