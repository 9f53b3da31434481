"""The skeleton of a model, from its modules: built on the meta device, so that nothing is computed or loaded."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evomerge.errors import Incompatible
from evomerge.skeleton.roles import in_other_tower, projection_of, role_in_block, role_outside
from evomerge.tensors import Place, common_path

if TYPE_CHECKING:
    from torch import nn

# what a config may ask transformers to load from the hub and run: kernels by the name of a repository
KERNELS = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)
# twice those of the largest models; each takes kilobytes, and half a millisecond
MOST_MODULES = 200_000
# what makes a tower for images, or its config, ask the hub for another one, or read a file
BACKBONES = (
    *("backbone", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone"),
    *("architecture", "model_args"),
)
# where code lies, or another model
SOURCES = ("auto_map", "_name_or_path", "name_or_path", "custom_pipelines", "_auto_class")
# by which a config renames the others, and says which classes it is made of
RENAMES = ("attribute_map", "sub_configs")
_NUMBER = re.compile(r"layer_?(?:idx|id|index|number)|^(?:idx|index|training)$")


def meta_model(config: Mapping[str, Any], where: str) -> Any:
    """The transformers model that a ``config.json`` describes, without memory for its weights.

    Raises:
        Incompatible: transformers has no such class, or makes no model of the config.
    """
    import torch
    import transformers

    architecture, kind = config["architectures"][0], model_class(config, where)
    content = {key: value for key, value in config.items() if key != "quantization_config"}
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = own_config(kind, content)
            if getattr(own, "is_encoder_decoder", False):
                raise Incompatible(f"{where}: {architecture} has an encoder beside its decoder")
            with torch.device("meta"), _few_modules(where), without_programs():
                model = kind(own)
            model.tie_weights()
    except Incompatible:
        raise
    except Exception as error:  # whatever a config makes transformers raise
        said = " ".join(str(error).split())[:300]
        raise Incompatible(
            f"{where}: config.json: transformers {transformers.__version__} makes no {architecture} of it: "
            f"{type(error).__name__}: {said}"
        ) from None
    return model


@contextmanager
def _few_modules(where: str) -> Iterator[None]:
    """No model of more modules is made than have a place in memory."""
    from torch.nn.modules.module import register_module_module_registration_hook

    made = itertools.count(1)

    def count(owner: nn.Module, name: str, module: nn.Module | None) -> None:
        if next(made) > MOST_MODULES:
            raise Incompatible(
                f"{where}: config.json: asks for a model of more than {MOST_MODULES:,} modules; expected fewer layers or experts"
            )

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def without_programs() -> Iterator[None]:
    """No program is found by its name: some models look for a compiler where they are made."""
    before = os.environ.get("PATH")
    os.environ["PATH"] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def model_class(config: Mapping[str, Any], where: str) -> Any:
    """The class of transformers that ``architectures`` names.

    Raises:
        Incompatible: there is none.
    """
    import transformers

    architecture = config["architectures"][0]
    try:
        kind = getattr(transformers, architecture, None)
    except Exception:  # a library that it needs is broken
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise Incompatible(
            f"{where}: architectures: transformers {transformers.__version__} has no model called "
            f"{architecture!r}; models whose code lies beside their weights cannot be merged"
        )
    return kind


def own_config(kind: Any, content: Mapping[str, Any]) -> Any:
    """The config of a model class, from what stands in a ``config.json``."""
    try:
        return kind.config_class.from_dict(harmless(content))
    except Exception:  # null for what must be something: then it stands for the default
        given = {key: value for key, value in content.items() if value is not None}
        return kind.config_class.from_dict(harmless(given))


def harmless(value: Any) -> Any:
    """A config, made anew, without what names code, or what the hub would be asked for.

    Floats that JSON has no word for are written as ``{"__float__": Infinity}``.
    """
    if isinstance(value, Mapping):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        left_out = (*KERNELS, *BACKBONES, *SOURCES, *RENAMES)
        return {key: harmless(item) for key, item in value.items() if key not in left_out}
    return [harmless(item) for item in value] if isinstance(value, list) else value


def places_of(model: Any) -> dict[str, tuple[Place, bool]]:
    """Where each tensor of ``model`` sits, by its name in memory, and whether its rows belong to tokens.

    Places without names: those are given by the files.
    """
    from torch import nn

    modules = dict(model.named_modules())
    read = _read_first(model)
    stack, layers = stack_of(model)
    tower = common_path(stack, read or stack)
    embedding, head = model.get_input_embeddings(), output_head(model)
    tokens = getattr(embedding, "num_embeddings", None)
    found: dict[str, tuple[Place, bool]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner = modules[name.rpartition(".")[0]]
        norm = "norm" in type(owner).__name__.lower()
        if stack and name.startswith(f"{stack}."):
            number, _, path = name.removeprefix(f"{stack}.").partition(".")
            role = role_in_block(path, norm, tensor.ndim < 2)
            found[name] = Place(int(number), role, layers, projection_of(path, role)), False
            continue
        if owner is embedding:
            role = "embed"
        elif owner is head:
            role = "head"
        else:
            role = role_outside(name, norm, _is_in(name, tower))
        # an embedding may have rows for more than tokens, such as prompts or images, and the head has not
        by_row = tensor.ndim > 0 and tensor.shape[0] == tokens
        of_tokens = by_row and (owner in (embedding, head) or isinstance(owner, nn.Embedding))
        of_tokens = of_tokens or (by_row and role == "head" and tensor.ndim == 1)
        found[name] = Place(None, role, layers), of_tokens
    return found


def kinds_of(model: Any) -> dict[str, str]:
    """What each module of ``model`` is that an adapter may change.

    ``linear``, ``turned`` (linear, with a weight [inputs, outputs]), an ``embedding``, or ``other``.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    classes = {nn.Linear: "linear", Conv1D: "turned", nn.Embedding: "embedding"}

    def kind(module: nn.Module) -> str:
        return next((name for each, name in classes.items() if isinstance(module, each)), "other")

    return {name: kind(module) for name, module in model.named_modules()}


def _is_in(name: str, tower: str) -> bool:
    return not tower or name.startswith(f"{tower}.")


def output_head(model: Any) -> nn.Module | None:
    """The module that makes logits over tokens; None where there is none."""
    try:
        head: nn.Module | None = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # of classes that have none
        return None
    return head


def _read_first(model: Any) -> str:
    """The name of the embedding of tokens."""
    embedding = model.get_input_embeddings()
    return next((name for name, each in model.named_modules() if each is embedding), "")


def stack_of(model: Any) -> tuple[str, int]:
    """The name of the module list that holds the blocks, and how many; ``""`` and 0 if there is none.

    It is the one as long as the config says; of several, and where none is, the one that lies nearest to the
    embedding of tokens, and of those one of no other tower, with most parameters.
    """
    from torch import nn

    text, read = model.config.get_text_config(), _read_first(model)
    depth = getattr(text, "num_hidden_layers", None)
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    }
    fitting = {name: module for name, module in lists.items() if len(module) == depth} or lists

    def size(name: str) -> tuple[int, bool, int, int]:
        # of lists inside one another the outermost
        parameters = sum(p.numel() for p in fitting[name].parameters())
        own = not in_other_tower(name)
        return len(common_path(name, read)), own, parameters, -len(name)

    if not fitting:
        return "", 0
    name = max(fitting, key=size)
    return name, len(fitting[name])


def block_kinds(model: Any) -> Iterator[str]:
    """What sort of block each is, in words of its modules, their plain settings and the shapes of its tensors.

    Blocks of one kind compute the same from the same tensors. What differs from block to block by its number
    alone is left out.
    """
    stack, layers = stack_of(model)
    modules = dict(model.named_modules())
    for number in range(layers):
        found = []
        for name, module in modules[f"{stack}.{number}"].named_modules():
            own = sorted(
                (key, value)
                for key, value in vars(module).items()
                if isinstance(value, (bool, int, float, str)) and not _NUMBER.search(key)
            )
            shapes = [tuple(tensor.shape) for tensor in module.parameters(recurse=False)]
            found.append((name, type(module).__name__, own, shapes))
        yield hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def tied_names(model: Any) -> dict[str, str]:
    """Name -> the name of the parameter that it is, and that files hold: as the class says, else the first."""
    others: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        others.setdefault(id(parameter), []).append(name)
    said = getattr(model, "all_tied_weights_keys", None) or {}
    found = {}
    for names in others.values():
        source = next((name for name in names if name not in said), names[0])
        found.update({name: source for name in names if name != source})
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers says on the way of configs, and of tensors that a file lacks or has beyond the wanted."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
