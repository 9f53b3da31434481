"""Model folders as strangers may make them: valid ones, and mutations of them, a file or two at a time.

``damaged(files, key)`` is the same for the same arguments, on any machine.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mutations import cut, flipped, inserted, repeated
from safetensors.torch import load_file, save_file

from evomerge.checkpoint import INDEX
from evomerge.testing.models import tiny_family

SHAPE = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
GENERATION = {"do_sample": True, "temperature": 0.7, "top_k": 5, "eos_token_id": [1]}
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
CODE = {"AutoTokenizer": ["tokenization.Other", None], "AutoConfig": "configuration.Other"}
RECIPE = """\
base: {0}/base
models: {{one: {0}/one, two: {0}/two+{0}/lora}}
dtype: float32
tokenizer: one
groups: [{{method: task_arithmetic}}]
"""

Files = dict[str, bytes | None]  # by path; None is a file that is not there


def example(folder: Path) -> Files:
    """A base, a model with all that may lie beside weights, a sharded one, an adapter of it, a recipe."""
    tiny_family(folder, ("base", "one", "two"), tie_word_embeddings=False, **SHAPE)
    one, two, lora = folder / "one", folder / "two", folder / "lora"
    (one / "generation_config.json").write_text(json.dumps(GENERATION))
    (one / "modules.json").write_text(json.dumps(MODULES))
    (one / "1_Pooling").mkdir()
    (one / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
    for name in ("config.json", "tokenizer_config.json"):
        path = one / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": CODE}))
    weights = load_file(two / "model.safetensors")
    (two / "model.safetensors").unlink()
    weight_map = {}
    for number in range(2):
        part = dict(sorted(weights.items())[number::2])
        shard = f"model-0000{number + 1}-of-00002.safetensors"
        save_file(part, two / shard, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, shard))
    (two / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    lora.mkdir()
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {}, "use_dora": True}
    (lora / "adapter_config.json").write_text(
        json.dumps({**said, "alpha_pattern": {"q_proj": 3}, "target_modules": ["q_proj"]})
    )
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    rows, columns = weights["model.layers.1.self_attn.q_proj.weight"].shape
    matrices = {"A.weight": (2, columns), "B.weight": (rows, 2), "magnitude_vector": (rows,)}
    save_file(
        {f"{module}.lora_{part}": torch.ones(shape) for part, shape in matrices.items()},
        lora / "adapter_model.safetensors",
    )
    (folder / "recipe.yaml").write_text(RECIPE.format(folder))
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "recipe.yaml"
    }


def damaged(files: Files, key: str) -> Files:
    """The files that a mutant has instead of those of ``files``."""
    draw = random.Random(key)
    found: Files = {}
    for _ in range(draw.choice((1, 1, 1, 2))):
        # half of the mutations go to where most is read: descriptions, not weights
        name = draw.choice([n for n in files if draw.random() < 0.5 or n.endswith(".json")])
        content = found.get(name, files[name])
        if content is None:
            continue
        kind = draw.random()
        if kind < 0.03:
            found[name] = draw.choice((None, b"", b"{}", b"[]", b"null", b"[" * 100_000))
        elif kind < 0.06:
            found[name] = files[draw.choice(list(files))]
        elif kind < 0.25:
            found[name] = draw.choice((flipped, inserted, cut, repeated))(content, draw)
        elif name.endswith(".safetensors"):
            found[name] = _reheaded(content, draw)
        elif name.endswith(".json"):
            found[name] = _replanted(content, draw)
    return found


# -- trees ---------------------------------------------------------------------------------------

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e300, 2**31, 2**53, 2**63, 2**64, 10**400),
    *(float("nan"), float("inf"), "", "x", " ", "\x00", "\x1b[31m", "\ud800", "ü", "..", "/etc/passwd"),
    *("../one/model.safetensors", "a/b", "x" * 3000, "(", "(?P<", "*", "LORA", "F32", "F8_E4M3", "BF16"),
    *([], [[]], [[["x"]]], {}, {"a": 1}, [None], [0, 0], [0, 4], [4, 0], [-1, 1], [1, 2, 3], ["x", 1]),
    *("model.safetensors", "AutoModel", "lm_head.weight", "LlamaForCausalLM", "org/repository--a.B", "float16"),
)  # fmt: skip


def _replanted(content: bytes, draw: random.Random) -> bytes:
    """A value of a JSON file replaced, removed, renamed, wrapped or exchanged for another."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):  # mutated before
        return content
    return json.dumps(_mutated(tree, draw)).encode()


def _reheaded(content: bytes, draw: random.Random) -> bytes:
    """The same of the header of a safetensors file, which keeps its tensors."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        tree = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError, struct.error):
        return content
    header = json.dumps(_mutated(tree, draw)).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _mutated(tree: Any, draw: random.Random) -> Any:
    places = list(_places(tree))
    if not places:
        return draw.choice(_ODD)
    # an object with many keys, a vocabulary say, is one place among its siblings
    owners = list({id(owner): owner for owner, _ in places}.values())
    owner = draw.choice(owners)
    name = draw.choice([key for other, key in places if other is owner])
    kind = draw.randrange(6)
    if kind <= 2:
        owner[name] = draw.choice(_ODD)
    elif kind == 3:
        del owner[name]
    elif kind == 4 and isinstance(owner, dict):
        known = [key for other, key in places if isinstance(other, dict)]
        owner[str(draw.choice((*known, *_ODD)))] = owner.pop(name)
    elif kind == 4:
        owner[name] = draw.choice(([owner[name]], {"a": owner[name]}, [owner[name]] * 2))
    else:
        other, place = draw.choice(places)
        owner[name] = json.loads(json.dumps(other[place]))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    if not isinstance(tree, (dict, list)):
        return
    for name, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, name
        yield from _places(value)
