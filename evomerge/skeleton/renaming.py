"""Under which names transformers loads what a file calls otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evomerge.skeleton.conversion import held_names, stored
from evomerge.skeleton.modules import meta_model


def loaded_as(config: Mapping[str, Any], where: str, names: Iterable[str]) -> dict[str, str]:
    """For those of ``names`` that transformers takes for a tensor of another name: that name, on disk."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )
    except ImportError:  # transformers 4 knows prefixes alone
        return {}
    model = meta_model(config, where)
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    held = model.state_dict()
    on_disk: dict[str, list[str]] = {}
    for disk, memory in held_names(model, stored(model)).items():
        on_disk.setdefault(memory, []).append(disk)
    found = {}
    for name in names:
        memory, _ = rename_source_key(
            name, renamings, converters, model.base_model_prefix or None, held
        )
        if len(on_disk.get(memory, ())) == 1:
            found[name] = on_disk[memory][0]
    return found
