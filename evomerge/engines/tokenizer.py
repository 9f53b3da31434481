"""The tokenizer of merged models: that of the donor."""

from __future__ import annotations

from typing import Any

from evomerge.checkpoint import Donor, companions, read_json
from evomerge.config import shown
from evomerge.errors import CheckpointError, panicked
from evomerge.visible import first_line


def load_tokenizer(donor: Donor, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside ``donor``, with its chat template.

    Raises:
        CheckpointError: there is none, or transformers cannot load it.
    """
    from transformers import AutoTokenizer

    companions(donor)  # what is wrong in a file of it, with file and key
    _check_class(donor)
    try:
        return AutoTokenizer.from_pretrained(
            donor.tokenizer_folder, trust_remote_code=trust_remote_code
        )
    except BaseException as error:  # whatever transformers raises
        if not (isinstance(error, Exception) or panicked(error)):
            raise
        raise CheckpointError(
            f"{donor.name}: its tokenizer cannot be loaded: {first_line(error)}"
        ) from None


def _check_class(donor: Donor) -> None:
    """Refuse what is no tokenizer: transformers would load it, and a model may bring code of its own."""
    import transformers

    for path in (donor.tokenizer_folder / "tokenizer_config.json", donor.folder / "config.json"):
        named = read_json(path).get("tokenizer_class") if path.is_file() else None
        for each in (named, f"{named}Fast"):
            found = getattr(transformers, each, None) if isinstance(each, str) else None
            if found is not None and not (
                isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase)
            ):
                raise CheckpointError(
                    f"{path}: tokenizer_class: expected a tokenizer of transformers, found {shown(named)}"
                )
