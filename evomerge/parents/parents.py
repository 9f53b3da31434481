"""The models of a recipe, opened, checked against each other and seen as one.

Models may differ in their vocabularies and in whether the output head is tied. Their tensors are
then aligned, lazily, so that every one has the merged model's names and shapes:

* The vocabulary is that of the model whose tokenizer the recipe takes, padding included: rows of
  embedding and head are brought into its order by token string, tokens it lacks are left out.
* A token that a model lacks takes the base's row, so that the model's task vector is zero there; if
  the base lacks it, too, the mean of the rows of all models that have it.
* The merged head is tied if all models tie theirs; otherwise a tied model's head is a copy of its
  embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from evomerge import tensors
from evomerge.checkpoint import (
    ABSENT,
    Checkpoint,
    ModelRef,
    matching_rows,
    same_tokenizer,
    vocabulary,
)
from evomerge.errors import Incompatible
from evomerge.recipe import BASE, Recipe

if TYPE_CHECKING:
    import torch

# what gives the same weights another meaning
SAME_CONFIG = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
)
_NOT_MERGED = ("dtype", "torch_dtype", "quantization_config")  # of one parent's files only


class Sources:
    """The opened models of a recipe: checked against each other once, read by every candidate.

    Attributes:
        models: name -> checkpoint as stored; read tensors with ``tensor``, which aligns them.
        first: the base, or the first source: the config's origin.
        tokenizer: name of the model whose vocabulary the merged model has.
        tied: whether the merged head is the embedding.
        names: parameters of the merged model, in depth order.

    Raises:
        CheckpointError: a model cannot be read.
        Incompatible: models that cannot be merged, with every difference named.
    """

    def __init__(self, models: Mapping[str, Checkpoint], tokenizer: str | None = None) -> None:
        self.models = dict(models)
        self.first = next(iter(self.models.values()))
        self.tokenizer = tokenizer or next(iter(self.models))
        self._rows = aligned_rows(self.models, self.tokenizer)
        self._vocabulary_rows: dict[str, torch.Tensor] = {}
        whole = next((model for model in self.models.values() if not model.tied), self.first)
        self.names, self.tied = whole.names, whole.tied
        self._shapes = {name: whole.entry(name).shape for name in self.names}

    @classmethod
    def open(
        cls, recipe: Recipe, opened: Callable[[ModelRef], Checkpoint] = Checkpoint.open
    ) -> Sources:
        """Open what ``recipe`` reads, and the model whose tokenizer it takes, each by ``opened``.

        If their vocabularies differ, every model of the recipe is opened: all have a say in the
        rows that one lacks, whichever of them a group reads.
        """
        names = [name for name in (BASE, *recipe.models) if name != BASE or recipe.base]
        needed = [name for name in names if name in (*recipe.used, recipe.tokenizer)]
        sources = cls({n: opened(recipe.ref(n)) for n in needed}, recipe.tokenizer)
        if len(needed) == len(names) or not any(sources._rows.values()):
            return sources
        models = {n: sources.models.get(n) or opened(recipe.ref(n)) for n in names}
        return cls(models, recipe.tokenizer)

    @property
    def height(self) -> int:
        """Rows of the merged model's vocabulary, padding included."""
        return self.models[self.tokenizer].height

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the parameter ``name`` of the merged model."""
        stored = self._shapes[name]
        return (self.height, *stored[1:]) if _by_token(name) else stored

    def tensor(self, model: str, name: str) -> torch.Tensor:
        """The parameter ``name`` of a model, aligned, adapter applied.

        A view of the mapped file, the same object at every call, where ``mapped`` says so; else
        computed at each call. In the stored dtype, or float32 where that cannot hold the values.
        """
        stored = self._stored(model, name)
        rows = self._rows[model]
        return self._aligned(model, name, stored) if rows and _by_token(name) else stored

    def mapped(self, model: str, name: str) -> bool:
        """True if ``tensor(model, name)`` costs nothing: it is a view of a mapped file."""
        if self._rows[model] and _by_token(name):
            return False
        return self.models[model].mapped(self.stored_name(model, name))

    def by_token(self, model: str, name: str, values: torch.Tensor) -> torch.Tensor:
        """What is known of the entries of ``tensor(model, name)``, aligned as it is.

        Args:
            values: of the shape that the model stores the parameter in.

        Returns:
            The same for the merged vocabulary, 0 in the rows of tokens that the model lacks.
        """
        if not (self._rows[model] and _by_token(name)):
            return values
        rows = self._row_numbers(model)
        aligned = values[rows.clamp(min=0)]
        aligned[rows == ABSENT] = 0
        return aligned

    def config(self) -> dict[str, Any]:
        """``config.json`` of the merged model, but for its dtype.

        The first model's; the vocabulary's size and the token ids are those of the tokenizer's.
        """
        kept = {
            key: value
            for key, value in self.first.config.items()
            if not key.endswith("_token_id") and key not in _NOT_MERGED
        }
        return {
            **kept,
            **special_tokens(self.models[self.tokenizer]),
            "vocab_size": self.height,
            "tie_word_embeddings": self.tied,
        }

    def notes(self) -> list[str]:
        """What alignment does, one line a model; nothing if the models agree."""
        notes = []
        for name, rows in self._rows.items():
            if not rows:
                continue
            absent = [n for n, row in enumerate(rows) if row == ABSENT]
            from_base = sum(self._row(BASE, n) != ABSENT for n in absent if BASE in self.models)
            facts = {
                "rows moved": sum(row not in (n, ABSENT) for n, row in enumerate(rows)),
                "filled from the base": from_base,
                "filled with the mean of the models that have them": len(absent) - from_base,
                "left out": self.models[name].height - len(rows) + len(absent),
            }
            notes.append(f"{name}: {', '.join(f'{fact}: {n}' for fact, n in facts.items() if n)}")
        if notes:
            common = f"aligned by token to {self.height} rows of {self.tokenizer}"
            notes.insert(0, f"vocabularies differ: {common}")
        if not self.tied and (tied := [n for n, m in self.models.items() if m.tied]):
            notes.append(
                f"{', '.join(tied)}: the head is a copy of the embedding, others do not tie"
            )
        return notes

    def stored_name(self, model: str, name: str) -> str:
        """The parameter of a model that ``name`` is read from: a tied head is the embedding."""
        checkpoint = self.models[model]
        tied_head = checkpoint.tied and tensors.place_of(name).role == "head"
        return checkpoint.embedding if tied_head else name

    def _stored(self, model: str, name: str) -> torch.Tensor:
        return self.models[model].tensor(self.stored_name(model, name))

    def _row(self, model: str, row: int) -> int:
        rows = self._rows[model]
        return rows[row] if rows else row

    def _row_numbers(self, model: str) -> torch.Tensor:
        import torch

        if model not in self._vocabulary_rows:
            rows = self._rows[model] or range(self.height)
            self._vocabulary_rows[model] = torch.tensor(rows, dtype=torch.int64)
        return self._vocabulary_rows[model]

    def _aligned(self, model: str, name: str, stored: torch.Tensor) -> torch.Tensor:
        import torch

        rows = self._row_numbers(model)
        aligned = stored[rows.clamp(min=0)]
        absent = (rows == ABSENT).nonzero().flatten()
        if absent.numel():
            fill = self._fill(name, absent)
            if not torch.equal(fill.to(stored.dtype).float(), fill):
                aligned = aligned.float()
            aligned[absent] = fill.to(aligned.dtype)
        return aligned

    def _fill(self, name: str, wanted: torch.Tensor) -> torch.Tensor:
        """Rows ``wanted`` of the merged vocabulary for a model that lacks them, float32."""
        import torch

        shape = (len(wanted), *self.shape(name)[1:])
        total, count = torch.zeros(shape), torch.zeros(len(wanted), *[1] * (len(shape) - 1))
        for model in self.models:
            rows = self._row_numbers(model)[wanted]
            has = rows != ABSENT
            values = self._stored(model, name)[rows[has]].float()
            if model == BASE:
                base_has, base_values = has, values
            total[has] += values
            count[has] += 1
        mean = total / count
        if BASE in self.models:
            mean[base_has] = base_values
        return mean


def _by_token(name: str) -> bool:
    """True if the rows of ``name`` belong to tokens."""
    return tensors.place_of(name).role in ("embed", "head")


def check_compatible(models: Mapping[str, Checkpoint], tokenizer: str | None = None) -> None:
    """Refuse models that cannot be merged into one with the vocabulary of ``tokenizer``."""
    aligned_rows(models, tokenizer or next(iter(models)))


def aligned_rows(models: Mapping[str, Checkpoint], tokenizer: str) -> dict[str, list[int] | None]:
    """For each model, which of its rows stands where in the vocabulary of ``tokenizer``.

    Returns:
        Model -> row numbers as ``matching_rows`` gives them, or None if nothing moves.

    Raises:
        Incompatible: models differ in architecture, depth, tensors, shapes or meaning of their
            configs, or in vocabularies that have no ``tokenizer.json`` to align them by.
    """
    (first_name, first), *others = models.items()
    problems: list[str] = []
    for name, model in others:
        pair = f"{name} ({model.name}) and {first_name} ({first.name})"
        if model.architecture != first.architecture:
            problems.append(
                f"{pair}: architectures differ: {model.architecture} and {first.architecture}"
            )
        elif model.layers != first.layers:
            problems.append(f"{pair}: depths differ: {model.layers} and {first.layers} layers")
        else:
            problems += [f"{pair}: {difference}" for difference in _differences(model, first)]
    rows: dict[str, list[int] | None] = {}
    if not problems:
        donor, known = models[tokenizer], None
        for name, model in models.items():
            if model is donor or (same_tokenizer(model, donor) and model.height == donor.height):
                rows[name] = None
                continue
            tokens, known = vocabulary(model), known or vocabulary(donor)
            if tokens and known:
                found = matching_rows(tokens, model.height, known, donor.height)
                rows[name] = None if found == list(range(model.height)) else found
            elif model.height == donor.height:  # nothing says that they differ
                rows[name] = None
            else:
                lacking = name if not tokens else tokenizer
                problems.append(
                    f"{name} ({model.name}) and {tokenizer} ({donor.name}): vocabularies differ: "
                    f"{model.embedding} has {model.height} and {donor.height} rows, and {lacking} has "
                    "no tokenizer.json to align them by"
                )
    if problems:
        raise Incompatible("these models cannot be merged:\n  " + "\n  ".join(problems))
    return rows


def _differences(model: Checkpoint, first: Checkpoint) -> list[str]:
    ours, theirs = (
        {n for n in m.names if not tensors.ignored(n, tied=model.tied or first.tied)}
        for m in (model, first)
    )
    if differing := sorted(ours ^ theirs):
        return [f"tensors differ: only one has {differing[0]!r} ({len(differing)} in all)"]
    for name in first.names:
        if name not in ours:
            continue
        shape, first_shape = model.entry(name).shape, first.entry(name).shape
        if _by_token(name) and (shape[0], first_shape[0]) == (model.height, first.height):
            shape_of_one, shape_of_other = shape[1:], first_shape[1:]
        else:
            shape_of_one, shape_of_other = shape, first_shape
        if shape_of_one != shape_of_other:
            return [f"shapes differ: {name} is {shape} and {first_shape}"]
    for key in SAME_CONFIG:
        mine, other = model.config.get(key), first.config.get(key)
        if mine is not None and other is not None and mine != other:
            return [f"config.json differs: {key} is {mine!r} and {other!r}"]
    return []


def special_tokens(model: Checkpoint) -> dict[str, Any]:
    """The token ids (bos, eos, pad, ...) in a model's config."""
    return {key: value for key, value in model.config.items() if key.endswith("_token_id")}
