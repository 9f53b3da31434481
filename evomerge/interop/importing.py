"""mergekit YAML in: the recipe that gives the tensors mergekit gives, or a refusal with the reason.

Values are resolved tensor by tensor and then grouped. The arithmetic differs: mergekit computes
most methods in the file's ``dtype``, evomerge in float32. A merge that others of the file merge becomes a recipe
of its own, which stands for a model in theirs: its result is rounded to its own dtype, as mergekit writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge import config, methods, recipe
from evomerge.checkpoint import DTYPES, ModelRef
from evomerge.errors import ConfigError, one_of
from evomerge.interop.anatomy import UNKNOWN_DEPTH, Anatomy, read_anatomy
from evomerge.interop.blends import Blend, Resolved, Resolver
from evomerge.interop.catalogue import PEERS
from evomerge.interop.document import Document, parse_document
from evomerge.interop.layout import by_name, groups_of
from evomerge.interop.naming import name_models
from evomerge.interop.stacking import file_names, last_of, parts_of, within
from evomerge.paths import Path
from evomerge.recipe import BASE, Body, Group, Recipe
from evomerge.tensors import KEPT
from evomerge.tokens import UNION, TokenRules

Recipes = dict[
    str, tuple[Recipe, list[str]]
]  # file name -> recipe, what a reader should know of it


def recipes_of(nodes: Sequence[config.Node], file: str, layers: int | None = None) -> Recipes:
    """The recipes of a mergekit file, and what a reader of each should know.

    Args:
        nodes: its documents.
        file: name of the recipe of the model; the others, which it names as models, lie beside it.
        layers: depth of the models, for files that need it and models that are not at hand.

    Returns:
        Those that others need first, the one in ``file`` last.

    Raises:
        ConfigError: it is no file for mergekit, or says what a recipe cannot; all problems at once.
    """
    problems = config.Problems()
    parsed = [parse_document(node, problems) for node in nodes]
    problems.check()
    documents = [document for document in parsed if document is not None]
    parts = parts_of(documents, problems)
    problems.check()
    last = last_of(documents)
    own = within(last, parts)
    mentioned = (name for document in own for name in document.references if name not in parts)
    model = next(mentioned, None)
    if model is None:
        raise ConfigError([f"{last.node.file}: names no model but its own merges"])
    anatomy = read_anatomy(ModelRef(model))
    importer = _Importer(parts, replace(anatomy, layers=anatomy.layers or layers), model, problems)
    importer.add(last, file)
    unused = [document.name for document in documents if document not in own]
    if unused:
        importer.recipes[file][1].append(
            f"{', '.join(map(str, unused))}: left out, as the model is not made of it"
        )
    return importer.recipes


class _Importer:
    """Makes a recipe of every merge that is needed as one."""

    def __init__(
        self,
        parts: Mapping[str, Document],
        anatomy: Anatomy,
        model: str,
        problems: config.Problems,
    ) -> None:
        self.parts, self.anatomy, self.model, self.problems = parts, anatomy, model, problems
        self.files: dict[str, str] = {}
        self.recipes: Recipes = {}

    def add(self, document: Document, file: str) -> None:
        """The recipe of ``document``, after those that it names as models."""
        self.files = self.files or file_names(list(self.parts), file)
        whole = within(document, self.parts)
        dtype = next((each.dtype for each in whole if each.dtype), None) or self.anatomy.dtype
        resolver = Resolver(self.parts, self.anatomy, self.problems)
        found = resolver.resolve(document, dtype)
        self.problems.check()
        named = [name for blend in found.blends.values() for name in blend.references]
        named += [hop.model for hop in found.path or () if hop.model]
        for name in dict.fromkeys(named):
            if name in self.parts and self.files[name] not in self.recipes:
                self.add(self.parts[name], self.files[name])
        documents = [document, *(self.parts[name] for name in found.through)]
        self.recipes[file] = _Assembler(self, documents, found.layers, dtype).recipe(found)


class _Assembler:
    """Makes the recipe of what was resolved: the first of ``documents``, with the others looked through."""

    def __init__(
        self, importer: _Importer, documents: Sequence[Document], layers: int, dtype: str | None
    ) -> None:
        self.parts, self.files = importer.parts, importer.files
        self.documents, self.last, self.anatomy = documents, documents[0], importer.anatomy
        self.file, self.layers, self.dtype = self.last.node.file, layers, dtype
        self.notes = [note for document in documents for note in document.notes]
        if self.anatomy.skeleton is None and any(b.filter for d in documents for b in d.branches):
            self.notes.append(
                f"{importer.model} is not at hand: filters are read for models without biases and without norms "
                "inside attention"
            )

    def recipe(self, found: Resolved) -> tuple[Recipe, list[str]]:
        blends = found.blends
        base = self._base(blends)
        tokenizer, rules = self._tokenizer(base)
        references = dict.fromkeys(m for blend in blends.values() for m in blend.models)
        references |= dict.fromkeys(hop.model for hop in found.path or () if hop.model)
        if tokenizer and tokenizer != UNION:
            references.setdefault(tokenizer)
        names = name_models([reference for reference in references if reference != base])
        sources = {name: self._model(reference) for reference, name in names.items()}
        if base:
            names[base] = BASE
        groups = {tensor: self._group(blend, names) for tensor, blend in blends.items()}
        names[UNION] = UNION
        donor = names[tokenizer] if tokenizer else next(iter(names.values()))
        for token, row in (rules.rows if rules else {}).items():
            if row.model and row.model not in names:
                raise ConfigError(
                    [
                        f"{self.file}: tokenizer.tokens.{token}: {row.model} is none of the models that are merged"
                    ]
                )
        if tokenizer is None:
            self.notes.append(
                f"mergekit would take the tokenizer of any of the models; here it is that of {donor}"
            )
        made = Recipe(
            self._model(base) if base else None,
            sources,
            Body(self._grouped(groups), path=_renamed(found.path, names)),
            self._dtype(),
            tokenizer=donor,
            tokens=rules and rules.renamed(names),
        )
        return made, list(dict.fromkeys(self.notes))

    def _model(self, reference: str) -> ModelRef:
        """A model as a recipe names it; a merge of the file by that of its recipe, which lies beside."""
        return ModelRef(self.files.get(reference) or ModelRef(reference).portable)

    def _base(self, blends: Mapping[str, Blend]) -> str | None:
        bases = {blend.base: None for blend in blends.values() if blend.base}
        if len(bases) > 1:
            raise ConfigError(
                [f"{self.file}: base_model: a recipe has one base, this file {' and '.join(bases)}"]
            )
        return next(iter(bases), None) or self.last.base

    def _tokenizer(self, base: str | None) -> tuple[str | None, TokenRules | None]:
        """The model whose tokenizer the merge takes, or ``union``; None if mergekit's choice is arbitrary. And
        what is said of single tokens."""
        at = self.last
        through = {document.name: document for document in self.documents if document.name}
        while at.tokenizer in through and through[at.tokenizer] is not self.last:
            at = through[at.tokenizer]
        if at.tokenizer is None:
            at = next((d for d in self.documents if d.tokenizer), at)
        given = at.tokenizer
        return (base if given in (None, "base") else given), at.tokens

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
        # mergekit mixes routers like all else; a recipe does that only where a group names them
        kept = {name: each for name, each in groups.items() if places[name].role in KEPT}
        mixed = {name: each for name, each in groups.items() if name not in kept}
        found = groups_of(mixed, places, self.layers, ranged=sliced and unknown)
        found = (*by_name(kept), *found)
        if unknown and not sliced and any(group.layers or group.tensors for group in found):
            what = (
                "norms of a block"
                if any(group.tensors for group in found)
                else "the norms of blocks and the final norm"
            )
            raise ConfigError([f"{self.file}: {what} differ, and {UNKNOWN_DEPTH}"])
        return found

    def _dtype(self) -> str:
        found = self.dtype
        if found is None:
            self.notes.append(
                "mergekit would keep the dtype of the models; it is not known here, so check `dtype`"
            )
        if found and found not in DTYPES:
            raise ConfigError([f"{self.file}: dtype: expected {one_of(DTYPES)}, found {found!r}"])
        return found or "bfloat16"


def _renamed(path: Path | None, names: Mapping[str, str]) -> Path | None:
    """The same with models by their names."""
    return path and tuple(
        hop if hop.model is None else replace(hop, model=names[hop.model]) for hop in path
    )
