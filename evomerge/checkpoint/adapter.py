"""LoRA adapters, expanded into the tensors they touch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evomerge.checkpoint import fields
from evomerge.checkpoint.files import TOKENIZER, mapped_file, read_json
from evomerge.checkpoint.header import FLOATS, read_header
from evomerge.checkpoint.ternary import TernaryFile
from evomerge.checkpoint.weights import ADAPTER_CONFIG, TERNARY, adapter_file, refuse_model
from evomerge.config import shown
from evomerge.errors import CheckpointError, InputError
from evomerge.factors import Factors
from evomerge.patterns import check, found

if TYPE_CHECKING:
    import torch

_LORA = re.compile(
    r"^base_model\.model\.(.+)\.lora_(embedding_)?(A|B|magnitude_vector)(?:\.default)?(?:\.weight)?$"
)
_WHOLE = re.compile(
    r"^base_model\.model\.(.+?)(?:\.token_adapter)?(?:\.base_layer)?\.(weight|bias)$"
)
_ROWS = re.compile(
    r"^base_model\.model\.(.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?$"
)
# peft saves an embedding that has grown with all that it keeps of it: the trained one once more, and the old one
_TWICE = re.compile(
    r"^(base_model\.model\..+)\.(?:modules_to_save|original_module)(?:\.default)?\.weight$"
)
# what only changes the training, or nothing; any other value changes the expansion
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "lora_bias": (False, None),
    # the others (PiSSA, OLoRA, ...) change the base's own weights
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
}


Shapes = Mapping[str, tuple[int, ...]]
# How an adapter changes a tensor: adds two factors; rescales as DoRA does; sets rows; brings it whole.
Kind = Literal["factors", "dora", "rows", "whole"]


@dataclass
class Update:
    """The stored keys of one adapted tensor (``A``, ``B``, perhaps ``magnitude_vector``).

    ``turned``: what it adds is the transpose of B A, as in an embedding, or a weight [inputs, outputs] of GPT-2.
    """

    turned: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    scale: float = 1.0


class Adapter:
    """A PEFT LoRA: W + s B A for each tensor it touches, s = lora_alpha / r.

    rsLoRA takes s = lora_alpha / sqrt(r); ``rank_pattern`` and ``alpha_pattern`` set r and lora_alpha
    by module. DoRA rescales the sum to learnt norms m, one an output feature:
    m (W + s B A) / ||W + s B A||. ``modules_to_save`` replaces whole tensors, ``trainable_token_indices`` rows of
    an embedding. What changes weights in other ways is refused with the reason.

    Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3; DoRA, https://arxiv.org/abs/2402.09353,
    equation 5; both as ``merge_and_unload`` of peft computes them, in float32.

    Args:
        folder: of the adapter.
        headers: where the header of its weights lies as long as they were not fetched.
    """

    def __init__(self, folder: Path, headers: Path | None = None) -> None:
        self.folder = folder
        refuse_model(folder)
        self._said = folder / ADAPTER_CONFIG
        self.config = read_json(self._said)
        self.file = adapter_file(headers or folder)
        self._refuse_other_kinds()
        self._ternary = TernaryFile(self.file) if self.file.name == TERNARY else None
        self._entries = (
            self._ternary.entries
            if self._ternary
            else read_header(self.file, whole=headers is None)
        )
        self._updates: dict[str, Update] = {}
        self._whole: dict[str, str] = {}
        self._rows: dict[
            str, tuple[str, list[int]]
        ] = {}  # tensor -> stored rows, and their numbers
        for key in self._entries:
            if (twice := _TWICE.match(key)) and f"{twice[1]}.weight" in self._entries:
                continue
            if match := _LORA.match(key):
                module, embedding, part = match.groups()
                update = self._updates.setdefault(f"{module}.weight", Update())
                if part in update.keys:
                    raise CheckpointError(
                        f"{self.file}: {update.keys[part]!r} and {key!r} are the same matrix; expected one"
                    )
                update.keys[part] = key
                update.turned |= bool(embedding)
            elif match := _ROWS.match(key):
                self._rows[f"{match[1]}.weight"] = key, self._numbers(match[1], key)
            elif match := _WHOLE.match(key):
                self._whole[f"{match[1]}.{match[2]}"] = key
            else:
                raise CheckpointError(f"{self.file}: {key!r} is not a plain LoRA matrix")
            if (dtype := self._entries[key].dtype) not in FLOATS:
                raise CheckpointError(
                    f"{self.file}: {key!r} is stored as {dtype}; expected one of {', '.join(FLOATS)}"
                )
        for name, update in self._updates.items():
            self._complete(name, update)
        self._handle: Any = None

    @property
    def names(self) -> set[str]:
        """Of the parameters that the adapter changes."""
        return {*self._updates, *self._whole, *self._rows}

    def rename(self, names: Mapping[str, str]) -> None:
        """Go by other names for parameters: it has those in memory, its model those on disk."""
        self._updates = {names.get(name, name): each for name, each in self._updates.items()}
        self._whole = {names.get(name, name): key for name, key in self._whole.items()}
        self._rows = {names.get(name, name): each for name, each in self._rows.items()}

    def touches(self, name: str) -> bool:
        """True if the adapter changes the parameter ``name``."""
        return name in self._updates or name in self._whole or name in self._rows

    def replaces(self, name: str) -> bool:
        """True if the adapter brings the whole parameter ``name``."""
        return name in self._whole

    def kind(self, name: str, stored: torch.Tensor) -> Kind | None:
        """How the adapter changes the parameter ``name``, of which the model has ``stored``; None if it does not.

        Of several ways it is ``whole``. An embedding that peft saved beside its factors, as the model has it, is none.
        """
        import torch

        update, rows = self._updates.get(name), name in self._rows
        whole = name in self._whole
        if whole and update and not rows:
            found = self._read(self._whole[name])
            whole = found.shape != stored.shape or not torch.equal(found.float(), stored.float())
        if whole or (update and rows):
            return "whole"
        if update:
            return "dora" if "magnitude_vector" in update.keys else "factors"
        return "rows" if rows else None

    def factors(self, name: str) -> Factors:
        """What is added to the parameter ``name`` [rows, columns], where ``kind`` is ``factors``.

        The scale is shared by both factors, so that one that all adapters have makes none longer than the other.
        """
        update = self._updates[name]
        a, b = (self._read(update.keys[part]).float() for part in "AB")
        left, right = (a.T, b.T) if update.turned else (b, a)
        return Factors(left, right).balanced(update.scale)

    def brought(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an embedding or head: the model's own, or of the one that was trained with other tokens."""
        found = self._entries[self._whole[name]].shape if name in self._whole else shape
        known = (self.folder / TOKENIZER).is_file()
        return found if known and found[1:] == shape[1:] else shape

    def unties(self, embedding: str, head: str) -> bool:
        """True if a tied model's embedding and head are trained apart: one is replaced, or each by its own."""
        saved = self._saved()
        trained = (
            {n for n in self._whole if n.removesuffix(".weight").endswith(saved)}
            if saved
            else set()
        )
        ends = trained & {embedding, head}
        return bool(ends) and not self.config.get("ensure_weight_tying")

    def check(self, name: str, shapes: Shapes, ties: Mapping[str, str]) -> None:
        """Refuse an adapter that was trained for another model than ``name``.

        Args:
            name: of the model.
            shapes: of its parameters.
            ties: its tied tensors, such as the head -> what they are tied to.
        """
        tied = set(ties) | set(ties.values())
        for changed in self._updates:
            if changed in tied:
                raise CheckpointError(
                    f"{self.folder}: trains {changed!r}, but {name} ties its output head to the "
                    "embedding, and one matrix cannot be both the trained and the plain one. Untie the "
                    "model first (lm_head.weight = a copy of the embedding, tie_word_embeddings: false)"
                )
        found: list[tuple[str, tuple[int, ...]]] = []
        for changed, update in self._updates.items():
            a, b = (self._entries[update.keys[part]].shape for part in "AB")
            # peft sets it where a module's weight is [inputs, outputs], and there alone
            turned = self.config.get("fan_in_fan_out") and shapes.get(changed) == (a[1], b[0])
            update.turned |= bool(turned)
            found.append((changed, (a[1], b[0]) if update.turned else (b[0], a[1])))
        for changed, key in self._whole.items():
            if changed not in ties:
                found.append((changed, self._entries[key].shape))
        for changed, (key, numbers) in self._rows.items():
            embedding = ties.get(changed, changed)
            if embedding in self._rows and numbers != self._rows[embedding][1]:
                raise CheckpointError(
                    f"{self.folder}: trains other rows of {changed!r} than of {embedding!r}, but {name} ties its "
                    "output head to the embedding"
                )
            if changed not in ties:
                height = shapes.get(changed, (0,))[0]
                stored = self._entries[key].shape
                fits = len(numbers) == stored[0] and all(number < height for number in numbers)
                found.append((changed, (height, *stored[1:]) if fits else stored))
        for changed, shape in found:
            if changed not in shapes:
                raise CheckpointError(
                    f"{self.folder}: adapts {changed!r}, which {name} does not have"
                )
            if shapes[changed] != shape:
                raise CheckpointError(
                    f"{self.folder}: adapts {changed!r} as {shape}, but in {name} it is "
                    f"{shapes[changed]}; the adapter belongs to another model"
                )

    def applied(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` with the adapter's update, float32; untouched tensors come back as they are."""
        if name in self._whole:
            tensor = self._read(self._whole[name])
        if name in self._rows:
            key, numbers = self._rows[name]
            tensor = tensor.float().clone()
            tensor[numbers] = self._read(key).float()
        update = self._updates.get(name)
        if update is None:
            return tensor
        a, b = (self._read(update.keys[part]).float() for part in "AB")
        result: torch.Tensor = (b @ a).mul_(update.scale)
        if update.turned:
            result = result.T.contiguous()
        result += tensor
        if "magnitude_vector" in update.keys:
            import torch

            features = 1 if update.turned else 0
            norm = torch.linalg.vector_norm(result, dim=1 - features, keepdim=True)
            magnitude = self._read(update.keys["magnitude_vector"]).float()
            result *= magnitude.reshape(norm.shape) / norm
        return result

    def _saved(self) -> tuple[str, ...]:
        """The names under ``modules_to_save``."""
        return tuple(self.config.get("modules_to_save") or ())

    def _numbers(self, module: str, key: str) -> list[int]:
        """The numbers of the rows of ``module`` that are stored under ``key``."""
        said = self.config.get("trainable_token_indices")
        if isinstance(said, dict):  # by module; otherwise of the embedding
            said = next((n for name, n in said.items() if f".{module}".endswith(f".{name}")), None)
        if not isinstance(said, list) or not all(type(n) is int and n >= 0 for n in said):
            raise CheckpointError(
                f"{self.folder / 'adapter_config.json'}: trainable_token_indices: expected the numbers of the rows "
                f"in {key!r}, found {said!r:.100}"
            )
        return said

    def _refuse_other_kinds(self) -> None:
        for key in ("peft_type", "r", "lora_alpha"):
            fields.field(self.config, key, fields.ADAPTER_CONFIG[key], self._said)
        wrong = [key for key, plain in _PLAIN.items() if self.config.get(key) not in plain]
        known = ("use_rslora", "use_dora")
        wrong += [
            k for k, v in self.config.items() if k.startswith("use_") and v and k not in known
        ]
        if wrong:
            raise CheckpointError(
                f"{self.folder}: {ADAPTER_CONFIG} has {wrong[0]}: {shown(self.config[wrong[0]])}; only "
                "LoRA and DoRA are expanded here. Merge it into its base with peft "
                "(merge_and_unload) and name that folder"
            )

    def _complete(self, name: str, update: Update) -> None:
        """Give ``update`` its scale, or refuse it."""
        if not {"A", "B"} <= set(update.keys):
            raise CheckpointError(f"{self.file}: only one of the two LoRA matrices of {name!r}")
        if bool(self.config.get("use_dora")) != ("magnitude_vector" in update.keys):
            raise CheckpointError(
                f"{self.file}: {ADAPTER_CONFIG} has use_dora: {self.config.get('use_dora')!r}, but "
                f"{name!r} has {'a' if 'magnitude_vector' in update.keys else 'no'} magnitude vector"
            )
        module = name.removesuffix(".weight")
        rank = self._by_pattern("rank_pattern", module, self.config["r"])
        alpha = self._by_pattern("alpha_pattern", module, self.config["lora_alpha"])
        a, b = (self._entries[update.keys[part]].shape for part in "AB")
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            raise CheckpointError(
                f"{self.file}: the LoRA matrices of {name!r} are {a} and {b}, but by "
                f"{ADAPTER_CONFIG} their rank is {rank}"
            )
        if "magnitude_vector" in update.keys:
            magnitude = self._entries[update.keys["magnitude_vector"]].shape
            if math.prod(magnitude) != b[0]:
                raise CheckpointError(
                    f"{self.file}: the magnitude vector of {name!r} is {magnitude}; expected {b[0]} norms"
                )
        update.scale = float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _by_pattern(self, key: str, module: str, default: Any) -> Any:
        """The value of the first pattern under ``key`` that matches a whole tail of ``module``'s dotted name."""
        patterns: Mapping[str, Any] = self.config.get(key) or {}
        for pattern, value in patterns.items():
            try:
                check(pattern)
                tail = found(rf"^(.*\.)?({pattern})$", module)
            except InputError as error:
                raise CheckpointError(f"{self._said}: {key}: {error}") from None
            if tail:
                return value
        return default

    def _read(self, key: str) -> torch.Tensor:
        if self._ternary:
            return self._ternary.tensor(key)
        if self._handle is None:
            self._handle = mapped_file(self.file)
        tensor: torch.Tensor = self._handle.get_tensor(key)
        return tensor
