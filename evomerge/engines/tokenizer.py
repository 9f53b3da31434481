"""The tokenizer of merged models: that of the donor.

transformers looks at whatever a folder names: other configs, other tokenizers, repositories of the hub. So it is
shown a folder of ours, with what a merge takes over, cleaned, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.checkpoint import Donor, companions, read_json
from evomerge.checkpoint.companions import COMPANIONS, OF_MODEL, refuse_outside, without_options
from evomerge.config import shown
from evomerge.errors import CheckpointError, panicked
from evomerge.visible import first_line

_CONFIGS = ("tokenizer_config.json", "config.json")
# what AutoTokenizer chooses a class by; the rest of a config is none of its business
_OF_CONFIG = ("model_type", "tokenizer_class", "transformers_version")
_VOCABULARIES = ("*.model", "*.tiktoken", "*.txt", "*.bpe", "tekken.json", "*.jinja")


def load_tokenizer(donor: Donor, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside ``donor``, with its chat template.

    Args:
        donor: a model with a tokenizer.
        trust_remote_code: where its files name code, that is run.

    Raises:
        CheckpointError: there is none, or transformers cannot load it.
    """
    from transformers import AutoTokenizer

    home = donor.tokenizer_folder
    classes = [_class_in(path) for path in _configs(donor)]
    trusted = trust_remote_code and any(named_code(home))
    if not trusted and not any(classes) and _own_code(home):
        raise CheckpointError(
            f"{donor.name}: its tokenizer cannot be loaded: it is code of its own, which `trust_remote_code: true` in "
            "run.yaml would execute"
        )
    # as long as the tokenizer lives: some read their vocabulary again when they are copied
    laid_out = Path(tempfile.mkdtemp(prefix="evomerge-tokenizer-"))
    try:
        _lay_out(donor, laid_out)
        made = AutoTokenizer.from_pretrained(
            home if trusted else laid_out, trust_remote_code=trusted, local_files_only=not trusted
        )
    except BaseException as error:  # whatever transformers raises
        shutil.rmtree(laid_out, ignore_errors=True)
        if not (isinstance(error, Exception) or panicked(error)) or isinstance(
            error, CheckpointError
        ):
            raise
        said = first_line(error).replace(str(laid_out), str(home))
        raise CheckpointError(f"{donor.name}: its tokenizer cannot be loaded: {said}") from None
    weakref.finalize(made, shutil.rmtree, laid_out, ignore_errors=True)
    made.name_or_path = str(home)
    return made


def named_code(folder: Path) -> Iterator[tuple[Path, Any]]:
    """What files of a tokenizer's folder name as classes of their own: file, ``auto_map``."""
    for name in _CONFIGS:
        path = folder / name
        if path.is_file() and (named := read_json(path).get("auto_map")):
            yield path, named


def _lay_out(donor: Donor, into: Path) -> None:
    """The files of a tokenizer that a merge of ``donor`` would have, and vocabularies of other kinds."""
    home = donor.tokenizer_folder
    for name, path in companions(donor).items():
        if name in OF_MODEL or name not in COMPANIONS:
            continue
        if name in ("tokenizer_config.json", "special_tokens_map.json"):
            content = without_options(name, read_json(path))
            kept = {key: each for key, each in content.items() if key != "auto_map"}
            (into / name).write_text(json.dumps(kept), encoding="utf-8")
        else:
            (into / name).symlink_to(path.resolve())
    for pattern in _VOCABULARIES:
        for path in (*home.glob(pattern), *home.glob(f"additional_chat_templates/{pattern}")):
            there = into / path.relative_to(home)
            if path.is_file() and not there.exists():
                refuse_outside(home, path)
                there.parent.mkdir(exist_ok=True)
                there.symlink_to(path.resolve())
    if (config := home / "config.json").is_file():
        kept = {key: value for key, value in read_json(config).items() if key in _OF_CONFIG}
        (into / "config.json").write_text(json.dumps(kept), encoding="utf-8")


def _configs(donor: Donor) -> list[Path]:
    """The files that may say of which class the tokenizer is."""
    home = donor.tokenizer_folder
    return [home / "tokenizer_config.json", home / "config.json", donor.folder / "config.json"]


def _own_code(folder: Path) -> bool:
    return any(
        "AutoTokenizer" in named for _, named in named_code(folder) if isinstance(named, dict)
    )


def _class_in(path: Path) -> bool:
    """Whether a file names a tokenizer of transformers.

    Raises:
        CheckpointError: what it names is none: transformers would load it, and a model may bring code of its own.
    """
    import transformers

    named = read_json(path).get("tokenizer_class") if path.is_file() else None
    if not isinstance(named, str):
        return False
    known = False
    for each in (named, f"{named}Fast", named.removesuffix("Fast")):
        try:
            found = getattr(transformers, each, None)
        except Exception:  # a library that it needs is broken
            continue
        if found is None:
            continue
        known = isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase)
        if not known:
            raise CheckpointError(
                f"{path}: tokenizer_class: expected a tokenizer of transformers, found {shown(named)}"
            )
    return known
