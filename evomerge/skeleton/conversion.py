"""Names and tensors on disk for those in memory, as transformers maps them.

Some models are stored otherwise than they are held: experts one by one instead of packed, other prefixes. The
tensors on disk are what is merged. In a live model each of them is a view of a parameter, so that a merge is
written into place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from evomerge.errors import Incompatible
from evomerge.skeleton.modules import tied_names

if TYPE_CHECKING:
    import torch

    Cut = Callable[[torch.Tensor], torch.Tensor]


def stored(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of ``model`` as ``save_pretrained`` writes them, tied ones under each of their names.

    Views of the model's own memory, as far as the mapping can be said so.
    """
    held: dict[str, torch.Tensor] = model.state_dict()
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 holds what it stores
        return held
    with _still():
        found: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(held))
    return found


def held_names(model: Any, names: Mapping[str, Any]) -> dict[str, str]:
    """Stored name -> the name in memory of the tensor that it is, or is a part of."""
    held = model.state_dict()
    if all(name in held for name in names):
        return {name: name for name in names}
    return _renamed(model, names, legacy=False)


def loaded_as(model: Any, names: Iterable[str]) -> dict[str, str]:
    """For those of ``names`` that transformers takes for a tensor of another name: that name, on disk."""
    on_disk: dict[str, list[str]] = {}
    for disk, memory in held_names(model, stored(model)).items():
        on_disk.setdefault(memory, []).append(disk)
    found = {}
    for name, memory in _renamed(model, names, legacy=True).items():
        if len(on_disk.get(memory, ())) == 1:
            found[name] = on_disk[memory][0]
    return found


def _renamed(model: Any, names: Iterable[str], *, legacy: bool) -> dict[str, str]:
    """Name in a file -> the name in memory that transformers loads it under.

    With ``legacy`` names of old files are known, too, and prefixes that a file may have or not.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            PrefixChange,
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )
    except ImportError:  # transformers 4 renames nothing
        return {}
    mapping = [
        each
        for each in get_model_conversion_mapping(model, add_legacy=legacy)
        if legacy or not isinstance(each, PrefixChange)
    ]
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    prefix = (model.base_model_prefix or None, model.state_dict()) if legacy else ()
    return {name: rename_source_key(name, renamings, converters, *prefix)[0] for name in names}


def views(model: Any) -> dict[str, torch.Tensor]:
    """By the name on disk: the part of a live model's memory that holds the tensor; tied ones once.

    Of what is no model of transformers, the parameters by their names.

    Raises:
        Incompatible: a tensor is held in another form than it is stored, not only elsewhere.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return {name: parameter.data for name, parameter in model.named_parameters()}
    tied = tied_names(model)
    found = stored(model)
    names = held_names(model, found)
    memory = {
        name: (tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        for name, tensor in model.state_dict().items()
    }
    views = {}
    for name, tensor in found.items():
        held = names[name]
        if held in tied:
            continue
        storage = tensor.untyped_storage()
        if memory.get(held) != (storage.data_ptr(), storage.nbytes()):
            raise Incompatible(
                f"{name}: transformers holds it in another form than it stores it, so it cannot be merged in "
                "place; merge to a folder and load that"
            )
        views[name] = tensor
    return views


def pieces(model: Any) -> dict[str, list[tuple[str, Cut]]]:
    """By the name of a parameter in memory: the names on disk of the tensors that it holds, each with a function
    that cuts that tensor's part out of another tensor that is laid out like the parameter.

    A live model's layout stays as it is: it is looked at once.
    """
    if model not in _PIECES:
        _PIECES[model] = _pieces(model)
    return _PIECES[model]


_PIECES: WeakKeyDictionary[Any, dict[str, list[tuple[str, Cut]]]] = WeakKeyDictionary()


def _pieces(model: Any) -> dict[str, list[tuple[str, Cut]]]:
    held = {p.untyped_storage().data_ptr(): (name, p) for name, p in model.named_parameters()}
    found: dict[str, list[tuple[str, Cut]]] = {}
    for name, view in views(model).items():
        if (storage := view.untyped_storage().data_ptr()) in held:
            memory, parameter = held[storage]
            whole = view.shape == parameter.shape and view.stride() == parameter.stride()
            start = view.storage_offset() - parameter.storage_offset()
            cut = partial(_cut, size=view.shape, stride=view.stride(), start=start)
            found.setdefault(memory, []).append((name, _all if whole else cut))
    return found


def _all(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _cut(
    tensor: torch.Tensor, size: Sequence[int], stride: Sequence[int], start: int
) -> torch.Tensor:
    tensor = tensor.contiguous()
    return tensor.as_strided(size, stride, tensor.storage_offset() + start)


def _still() -> Any:
    """A mode in which tensors are not copied for being contiguous: what is cut out of one stays a view of it."""
    import torch

    class Still(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.Tensor.contiguous:
                return args[0]
            return func(*args, **(kwargs or {}))

    return Still()
