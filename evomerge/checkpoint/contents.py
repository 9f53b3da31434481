"""The files of a model that a score depends on: weights, configurations, tokenizer, templates, adapter."""

from __future__ import annotations

from pathlib import Path

from evomerge.checkpoint.companions import COMPANIONS
from evomerge.checkpoint.files import file_digest
from evomerge.checkpoint.reading import Checkpoint
from evomerge.checkpoint.sentence_modules import sentence_files, settings_of

_TEMPLATES = ("*.jinja", "additional_chat_templates/*.jinja")
ADAPTER = "adapter"


def files_of(model: Checkpoint, *, code: bool = False) -> dict[str, Path]:
    """What a model is made of, by name; those of its adapter under ``adapter/``.

    Args:
        model: opened.
        code: with the Python files that `trust_remote_code` runs.
    """
    weights = {model.entry(name).file for name in model.names}
    patterns = ("config.json", *COMPANIONS, *_TEMPLATES)
    found = {path for pattern in patterns for path in model.folder.glob(pattern)}
    # the latter without the former where they are of another package: they go along with no merge, but pool
    modules = {*sentence_files(model.folder), *settings_of(model.folder)}
    found |= {model.folder / name for name in modules}
    if code:
        found |= set(model.folder.glob("**/*.py"))
    named = {
        str(path.relative_to(model.folder)): path
        for path in sorted(weights | found)
        if path.is_file()
    }
    if model.adapter:
        own = (model.adapter.folder / name for name in (*COMPANIONS, "adapter_config.json"))
        for path in (model.adapter.file, *(path for path in own if path.is_file())):
            named[f"{ADAPTER}/{path.name}"] = path
    return named


def digests(model: Checkpoint, *, code: bool = False) -> dict[str, str]:
    """The same files -> sha256 of their bytes."""
    return {name: file_digest(path) for name, path in files_of(model, code=code).items()}
