"""The companions of weights: what makes a folder a usable model, copied from one model folder into another.

Only what is listed here is copied, and none of it is code. What a folder's own files say of code that lies
beside them, and so will not lie beside the copy, is left out.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.donor import Donor
from evomerge.checkpoint.files import TOKENIZER, read_json
from evomerge.checkpoint.reference import EMBEDDED
from evomerge.checkpoint.sentence_modules import MODULES, sentence_files
from evomerge.checkpoint.vocabulary import tokens_of
from evomerge.errors import CheckpointError

GENERATION = "generation_config.json"
# of a model, the others are of a tokenizer
OF_MODEL = (
    GENERATION,
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
COMPANIONS = (
    TOKENIZER,
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    *OF_MODEL,
)
_AUTO_MAP = "auto_map"
# options of the call that loads a tokenizer, which a file may set as well: where to look, what to ask the hub for
_OPTIONS = frozenset(
    (
        *("cache_dir", "gguf_file", "proxies", "revision", "subfolder", "token", "use_auth_token"),
        *("repo_type", "force_download", "resume_download", "local_files_only", "code_revision"),
        *("_commit_hash", "user_agent", "trust_remote_code", "fast_tokenizer_files", "init_inputs"),
        *("tokenizer_object", "_from_auto", "_from_pipeline", "config"),
        # dictionaries and plugins by their paths
        *("sudachi_kwargs", "mecab_kwargs", "jumanpp_kwargs"),
    )
)


def companions(donor: Donor) -> dict[str, Path]:
    """The companions of ``donor``, by their names in its folder.

    Raises:
        CheckpointError: one leads out of the folder, or cannot be read.
    """
    found = {}
    for name in (*COMPANIONS, *(beside := sentence_files(donor.folder))):
        folder = donor.folder if name in (*OF_MODEL, *beside) else donor.tokenizer_folder
        path = folder / name
        if not path.is_file():
            continue
        refuse_outside(folder, path)
        if path.suffix == ".json" and name != MODULES:
            content = read_json(path)
            if name == TOKENIZER:
                tokens_of(content, path)
        found[name] = path
    return found


def copy_companions(donor: Donor, target: Path) -> None:
    """The companions of ``donor`` into ``target``.

    Raises:
        CheckpointError: see ``companions``.
    """
    for name, path in companions(donor).items():
        content = read_json(path) if path.suffix == ".json" and name != MODULES else {}
        cleaned = without_options(name, content)
        (target / name).parent.mkdir(exist_ok=True)
        if _AUTO_MAP in content or cleaned != content:
            text = json.dumps(without_local_code(cleaned), indent=2)
            (target / name).write_text(f"{text}\n", encoding="utf-8")
        else:
            shutil.copyfile(path, target / name)


def without_options(name: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A file of a tokenizer without what says where transformers is to look for another one.

    Args:
        name: of the file.
        content: of it.
    """
    if name == "special_tokens_map.json":  # its keys win over all that is known of the call
        return {key: each for key, each in content.items() if key.endswith(("_token", "_tokens"))}
    if name == "tokenizer_config.json":
        return {
            key: each
            for key, each in content.items()
            if key not in _OPTIONS and not _leads_away(key, each)
        }
    return content


def _leads_away(key: str, value: Any) -> bool:
    """Whether a key of a tokenizer's config names a file, or a model: those of its folder are found without."""
    if key in ("vocab", "merges"):
        return isinstance(value, str)
    return key in ("name_or_path", "_name_or_path") or key.endswith(
        ("_file", "_files", "_path", "_dir")
    )


def without_local_code(content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without classes whose code lies beside it.

    transformers names classes of its own code under ``auto_map``: ``module.Class`` is a file of the folder,
    ``repository--module.Class`` is one of the hub, which means the same anywhere.
    """
    kept = {key: value for key, value in content.items() if key != _AUTO_MAP}
    named = content.get(_AUTO_MAP) or {}
    if isinstance(named, list):
        elsewhere: Any = named if _of_a_repository(named) else []
    else:
        elsewhere = {name: each for name, each in named.items() if _of_a_repository(each)}
    return {**kept, _AUTO_MAP: elsewhere} if elsewhere else kept


def _of_a_repository(classes: Any) -> bool:
    listed = classes if isinstance(classes, list) else [classes]
    return any(listed) and all(
        each is None or (isinstance(each, str) and "--" in each) for each in listed
    )


def refuse_outside(folder: Path, path: Path) -> None:
    """Refuse a link that leads out of the folder: whoever made it chose a file of this machine to be copied.

    The hub's cache keeps what a snapshot holds beside it, in ``blobs``; installers may link what they install.
    """
    if folder.parent == EMBEDDED:
        return
    home, lies = folder.resolve(), path.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(lies.is_relative_to(root) for root in allowed):
        raise CheckpointError(
            f"{path}: is a link to {os.fspath(lies)}, outside of its folder, and would be copied from there; put "
            "the file itself into the folder if it is meant"
        )
