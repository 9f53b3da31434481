"""``evomerge push``: a merge onto the hub, with its card and recipe, and nothing that names folders of this machine.

What goes up is decided and shown first (``parcel_of``), without a connection; only then anything is sent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.checkpoint import ModelRef, read_header, read_json
from evomerge.checkpoint.weights import ADAPTER_CONFIG, ROUTER
from evomerge.commands.card import FRONT, front_matter, kind_of
from evomerge.errors import EvomergeError, InputError, RunError
from evomerge.report.card import CARD, UNSTATED, is_hub_id, shown_name, stated_text
from evomerge.report.licences import Licence, stated
from evomerge.visible import first_line, one_line

RECIPE = "evomerge.yaml"
CONFIG = "config.json"
WEIGHTS = ".safetensors"
SENT = (WEIGHTS, ".json", ".jinja", ".model", ".txt", ".yaml", ".rows", ".svg", ".md")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".joblib")
_REVISION = re.compile(r"^(?!.*\.\.)[\w][\w./-]*$", re.ASCII)
_BASE = "base_model_name_or_path"


@dataclass(frozen=True)
class Parcel:
    """What goes onto the hub.

    Attributes:
        repository: hub id.
        private: whether a repository that is made is private.
        revision: the branch.
        files: name there -> a file, or the bytes of one that is not as it lies here.
        changes: name of such a file -> what is not as it lies here.
        left_out: files that stay here, and why.
        metadata: of the card.
    """

    repository: str
    private: bool
    revision: str
    files: Mapping[str, Path | bytes]
    changes: Mapping[str, str]
    left_out: Mapping[str, str]
    metadata: Mapping[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """Name there -> bytes."""
        return {
            name: len(each) if isinstance(each, bytes) else each.stat().st_size
            for name, each in self.files.items()
        }

    def lines(self) -> list[str]:
        """What would be sent, and what the hub would read of it."""
        sizes = self.sizes
        there = "private" if self.private else "public"
        return [
            f"{self.repository} ({there} if it is new), branch {self.revision}: {len(sizes)} files, "
            f"{_size_text(sum(sizes.values()))}",
            *(
                f"  {_size_text(size):>12}  {one_line(name)}"
                + (f" ({self.changes[name]})" if name in self.changes else "")
                for name, size in sizes.items()
            ),
            *(f"stays here: {one_line(name)}: {why}" for name, why in self.left_out.items()),
            "card:",
            *(f"  {line}" for line in config.dump(dict(self.metadata)).splitlines()),
        ]


def parcel_of(
    folder: Path,
    repository: str,
    *,
    private: bool = True,
    licence: str | None = None,
    revision: str = "main",
) -> Parcel:
    """What of ``folder`` goes onto the hub; nothing is sent, and nothing asked.

    Args:
        folder: that `evomerge merge` wrote.
        repository: OWNER/NAME.
        private: whether a repository that is made is private.
        licence: of the merge, an id of the hub; None: as its card says.
        revision: a branch.

    Raises:
        InputError: the folder is none of ours, or not whole; nobody says what licence it is under.
    """
    if not is_hub_id(repository):
        raise InputError(f"{repository}: expected OWNER/NAME, as the hub names repositories")
    if not _REVISION.match(revision):
        raise InputError(f"--revision {revision}: expected the name of a branch")
    _check_ours(folder)
    files: dict[str, Path | bytes] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if why := _why_not(path, name):
            left_out[name] = why
        else:
            files[name] = path
    _check_weights(folder, files)
    said = dict(front_matter(folder / CARD))
    card = _licensed(folder / CARD, said, stated(licence) if licence else None)
    changes = dict[str, str]()
    if card is not None:
        files[CARD], changes[CARD] = card, "with the licence that you state"
    for name, each in files.items():
        if isinstance(each, Path) and (text := _portable(each, said)) is not None:
            files[name], changes[name] = text, "without folders of this machine"
    return Parcel(
        repository,
        private,
        revision,
        files=files,
        changes=changes,
        left_out=left_out,
        metadata=said,
    )


def push(parcel: Parcel, say: Callable[[str], None] = lambda text: None) -> str:
    """Send it in one commit; its address.

    Raises:
        InputError: there is no token, it may not write there, or the repository is public where it must not be.
        RunError: the connection broke; what was sent is kept by the hub, so that the next try is shorter.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE forbids to ask the hub; unset it to push")
    if get_token() is None:
        raise InputError(
            "no token of the hub here: `hf auth login`, or set HF_TOKEN to one that may write "
            "(https://huggingface.co/settings/tokens)"
        )
    api, repository = HfApi(), parcel.repository
    try:
        try:
            there = api.repo_info(repository)
        except RepositoryNotFoundError:
            api.create_repo(repository, private=parcel.private, exist_ok=True)
            say(f"made {repository} ({'private' if parcel.private else 'public'})")
        else:
            if parcel.private and not there.private:
                raise InputError(
                    f"{repository}: is there and public; give --public if the merge may be, or name another one"
                )
        if parcel.revision != constants.DEFAULT_REVISION:
            api.create_branch(repository, branch=parcel.revision, exist_ok=True)
        say(f"sending {len(parcel.files)} files, {_size_text(sum(parcel.sizes.values()))}")
        commit = api.create_commit(
            repository,
            [
                CommitOperationAdd(name, each if isinstance(each, bytes) else str(each))
                for name, each in parcel.files.items()
            ],
            commit_message="A merge by evomerge",
            revision=parcel.revision,
        )
    except EvomergeError:
        raise
    except Exception as error:  # the hub client raises many kinds
        raise _told(error, repository) from None
    return str(commit.commit_url)


def _told(error: Exception, repository: str) -> EvomergeError:
    """What went wrong, as one message."""
    cause = error.__cause__
    said = first_line(error)[:300] + (f" ({first_line(cause)[:300]})" if cause else "")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return InputError(
            f"{repository}: the hub does not take this token: {said}. `hf auth login` with another, or set HF_TOKEN"
        )
    if status == 403:
        return InputError(
            f"{repository}: the token may not write there: {said}. It needs the right to write to {repository.split('/')[0]}"
        )
    if status == 400 or isinstance(error, ValueError):
        return InputError(f"{repository}: the hub refuses it: {said}")
    return RunError(f"{repository}: the upload broke off: {said.rstrip('.')}. Run it again")


def _check_ours(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one that `evomerge merge` wrote")
    if not kind_of(folder):
        raise InputError(
            f"{folder}: holds no model: there is no config.json, {ADAPTER_CONFIG} or {ROUTER}; expected a folder that "
            "`evomerge merge` wrote"
        )
    for name in (RECIPE, CARD):
        if (folder / name).is_symlink():
            raise InputError(
                f"{folder / name}: is a link; expected the file that `evomerge merge` wrote"
            )
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: has no {name}, so it is no merge of evomerge's, or one of an older version: merge it again; "
                "of other folders, `hf upload` does the same"
            )


def _why_not(path: Path, name: str) -> str:
    """Why a file stays here; empty if it goes."""
    if any(part.startswith(".") for part in name.split("/")):
        return "it is hidden"
    if path.is_symlink() or not path.is_file():
        return "it is no plain file"
    kind = path.suffix.lower()
    if kind in _PICKLES or (kind != WEIGHTS and _begins_as_pickle(path)):
        return "it may be a pickle, which can run code"
    return "" if kind in SENT else "it is nothing that a merge is made of"


def _begins_as_pickle(path: Path) -> bool:
    """Or as an archive, in which torch keeps them; a text begins with neither, nor does a model of sentencepiece."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"\x80", b"PK"))


def _check_weights(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    """Refuse weights that are none, or absent."""
    weights = [each for name, each in files.items() if name.lower().endswith(WEIGHTS)]
    if not weights:
        raise InputError(
            f"{folder}: holds no weights (*.safetensors); expected a folder that `evomerge merge` wrote"
        )
    for each in weights:
        if isinstance(each, Path):
            read_header(each)
    for index in folder.glob("*.safetensors.index.json"):
        named = read_json(index).get("weight_map", {}).values()
        if absent := sorted(set(named) - set(files)):
            raise InputError(f"{index}: names {absent[0]}, which is not there; merge it again")


def _licensed(card: Path, said: dict[str, Any], licence: Licence | None) -> bytes | None:
    """The card with ``licence``, which ``said`` takes over; None if it stays as it is.

    Raises:
        InputError: neither says one.
    """
    own = said.get("license")
    if licence is None:
        if isinstance(own, str) and Licence(own).told:
            return None
        raise InputError(
            f"{card}: says nothing of a licence, as the parents' differ or are not known (it says what they are): look at "
            "them, and give --license ID, such as apache-2.0, or other"
        )
    if licence.id == own:
        return None
    said["license"] = licence.id
    for key in ("license_name", "license_link"):
        said.pop(key, None)
    text = card.read_text(encoding="utf-8")
    body = text[found.end() :] if (found := FRONT.match(text)) else text
    body = body.replace(UNSTATED, stated_text(licence), 1)
    return f"---\n{config.dump(said)}---\n{body}".encode()


def _portable(file: Path, said: Mapping[str, Any]) -> bytes | None:
    """A recipe, router or adapter's config without folders of this machine; None where it names none."""
    if file.suffix.lower() == ".yaml":
        plain = config.read(file).plain
        found = _without_folders(plain)
        return None if found == plain else config.dump(found).encode()
    if file.name not in (ADAPTER_CONFIG, CONFIG):
        return None
    content = read_json(file)
    if file.name == CONFIG:  # as transformers writes it
        kept = {key: each for key, each in content.items() if key != "_name_or_path"}
        return None if kept == content else (json.dumps(kept, indent=2) + "\n").encode()
    base = content.get(_BASE)
    if not isinstance(base, str) or not os.path.isabs(base):
        return None
    ids = said.get("base_model")
    known = ids[0] if isinstance(ids, list) and len(ids) == 1 else shown_name(ModelRef(base))
    return (json.dumps({**content, _BASE: known}, indent=2) + "\n").encode()


def _without_folders(value: Any) -> Any:
    """Plain data, of whose absolute paths the last part is left."""
    if isinstance(value, Mapping):
        return {_without_folders(key): _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if isinstance(value, str) and any(map(_is_here, value.split("+"))):
        parts = value.split("+")
        return "+".join(shown_name(ModelRef(p)) if _is_here(p) else p for p in parts)
    return value


def _is_here(path: str) -> bool:
    return os.path.isabs(os.path.expanduser(path))


def _size_text(size: int) -> str:
    return f"{size / 2**20:,.1f} MB" if size >= 2**20 else f"{size / 2**10:,.1f} kB"
