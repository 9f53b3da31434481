"""A config as transformers reads it: its class fills in what is absent, and switches off what another switches off.

No code that a config names as its own is run: it is read as the class that transformers has for its
``model_type``, and as it is written where there is none, or where that refuses it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evomerge.skeleton.modules import harmless

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Effective:
    """The settings of a config, defaults included.

    Attributes:
        text: those of its language model.
        declared: the names that its class knows: of two spellings one of these is read. None where there is no
            class.
        around: those of a model that holds the language model, other towers included; none where it is all.
    """

    text: Config
    declared: frozenset[str]
    around: Config

    @classmethod
    def of(cls, config: Config) -> Effective:
        kind = _class_of(str(config.get("model_type")))
        whole, text = _built(kind, config)
        inner = _class_of(str(text.get("model_type"))) or kind
        around = {} if text is whole else {k: v for k, v in whole.items() if not _is(v, text)}
        return cls(text, frozenset(_defaults(inner)), around)

    def reads(self, name: str) -> bool:
        """False if the class of the language model knows no such setting."""
        return not self.declared or name in self.declared

    def get(self, name: str) -> Any:
        """The value of a setting; None where it is not there, or not read."""
        return self.text.get(name) if self.reads(name) else None

    def setting(self, spellings: Sequence[str]) -> Any:
        """The value of a setting under the spelling that is read, else the first that is there; or None."""
        there = [name for name in spellings if self.text.get(name) is not None]
        return self.text[min(there, key=lambda n: n not in self.declared)] if there else None


def _is(part: Any, text: Config) -> bool:
    """True if ``part`` of a config is that of its language model."""
    return isinstance(part, Mapping) and part.get("model_type") == text.get("model_type")


@lru_cache
def _class_of(model_type: str) -> Any:
    """The config class of transformers, or None where it has none."""
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[model_type]
    except Exception:  # it knows none, or cannot import it here
        return None


@lru_cache
def _defaults(kind: Any) -> dict[str, Any]:
    """The names that a config class takes -> their defaults."""
    if kind is None:
        return {}
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _built(kind: Any, config: Config) -> tuple[Config, Config]:
    """All settings of a config with the defaults of its class, and those of its language model."""
    if kind is not None:
        try:
            with _silent():
                built = kind.from_dict(harmless(config))
                text = built.get_text_config(decoder=True)
                whole = built.to_dict()
                return whole, whole if text is built else text.to_dict()
        except Exception:  # whatever transformers has against it: then as it is written
            pass
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        whole = {**_defaults(kind), **config}
        return whole, whole
    return config, {**_defaults(_class_of(str(inner.get("model_type")))), **inner}


@contextmanager
def _silent() -> Iterator[None]:
    """Without what transformers logs of a config that is only looked at."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
