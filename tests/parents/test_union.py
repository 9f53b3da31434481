"""The vocabulary of all models: its tokenizer, and where each row comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import config, merge
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.cli import main
from evomerge.engines import EngineOptions
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import ConfigError, Incompatible, InputError
from evomerge.merging import Materializer, Merge
from evomerge.merging.blueprint import Blueprint
from evomerge.parents import Parents
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.models import tiny_family
from evomerge.tokens import TokenRules

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SIZE = 258  # tokens of the tiny family
Grow = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evomerge" / "tokenizers"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untied: base, chat and sea."""
    return tiny_family(tmp_path_factory.mktemp("untied"), tie_word_embeddings=False)


@pytest.fixture
def grow(models: dict[str, Path], tmp_path: Path) -> Grow:
    """A copy of a model with more tokens; their rows are constant, the first row's number and so on."""

    def make(name: str, added: Sequence[str] = (), value: float = 0.0, height: int = 0) -> Path:
        out = tmp_path / f"grown-{name}"
        shutil.copytree(models[name], out)
        content = tokenizer_of(out)
        for token in added:
            last = len(content["model"]["vocab"]) + sum(
                entry["content"] not in content["model"]["vocab"]
                for entry in content["added_tokens"]
            )
            content["added_tokens"].append(
                {"id": last, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True}
            )  # fmt: skip
        (out / "tokenizer.json").write_text(json.dumps(content))
        set_height(out, height or SIZE + len(added), value)
        return out

    return make


def set_height(folder: Path, height: int, value: float) -> None:
    """Let a model have so many rows of tokens; the new ones are ``value``, ``value`` + 1, ..."""
    weights = load_file(folder / "model.safetensors")
    for name in (EMBED, HEAD):
        more = torch.arange(height - SIZE)[:, None] + torch.full((1, weights[name].shape[1]), value)
        weights[name] = torch.cat([weights[name][:height], more])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": height}))


def tokenizer_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    return content


def opened(folders: Mapping[str, Path], rules: TokenRules | None = None, **options: Any) -> Parents:
    checkpoints = {name: Checkpoint.open(ModelRef(str(f))) for name, f in folders.items()}
    return Parents(checkpoints, options.get("tokenizer", "union"), rules=rules)


def recipe(folders: Mapping[str, Path], tokenizer: Any = "union", method: str = "linear") -> Recipe:
    refs = {name: str(folder) for name, folder in folders.items()}
    base = {"base": refs.pop("base")} if "base" in refs else {}
    merged = {"method": method, "weight": 0.5}
    return Recipe.from_plain(
        {**base, "models": refs, "dtype": "float32", "tokenizer": tokenizer, "groups": [merged]}
    )


def rows_of(parents: Parents, model: str, name: str = EMBED) -> Tensor:
    return parents.tensor(model, name).float()


# -- equal vocabularies --------------------------------------------------------------------------


def test_the_union_of_equal_vocabularies_is_that_one(
    models: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    union = merge(recipe(models), tmp_path / "union")
    plain = merge(recipe(models, "base"), tmp_path / "plain")
    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (union / file).read_bytes() == (plain / file).read_bytes()
    assert opened(models).notes() == [] and not cache.exists()


def test_tokens_of_the_first_alone_change_nothing(grow: Grow, models: dict[str, Path]) -> None:
    members = {**models, "base": grow("base", ["<|a|>"], 5, height=264)}
    parents = opened(members)
    assert parents.height == 264 and parents.donor.tokenizer_folder == members["base"]
    assert parents.mapped("base", EMBED)
    assert torch.equal(rows_of(parents, "sea")[SIZE], torch.full((32,), 5.0))


# -- a real union --------------------------------------------------------------------------------


def test_each_token_has_the_rows_that_it_had(
    grow: Grow, models: dict[str, Path], tmp_path: Path
) -> None:
    """The first model's numbers stay; what others add follows; who lacks a token takes the mean."""
    members = {
        "base": models["base"],
        "chat": grow("chat", ["<|a|>", "<|b|>"], 10),
        "sea": grow("sea", ["<|b|>", "<|c|>"], 20),
    }
    stored = {name: load_file(folder / "model.safetensors") for name, folder in members.items()}
    out = merge(recipe(members, method="task_arithmetic"), tmp_path / "out")
    found = load_file(out / "model.safetensors")
    for name in (EMBED, HEAD):
        base, chat, sea = (stored[member][name] for member in ("base", "chat", "sea"))
        ours = base + 0.5 * (chat[:SIZE] - base) + 0.5 * (sea[:SIZE] - base)
        torch.testing.assert_close(found[name][:SIZE], ours, rtol=0, atol=1e-6)
        # <|a|> is chat's alone; <|b|> is 11 of chat and 20 of sea, which the base takes the mean of
        expected = [10.0, 15.5 + 0.5 * (11 - 15.5) + 0.5 * (20 - 15.5), 21.0]
        assert found[name][SIZE:, 0].tolist() == pytest.approx(expected)
        assert found[name].shape == (SIZE + 3, 32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.encode("x<|a|>y<|c|><|b|>")[-4:] == [
        SIZE, *tokenizer.encode("y"), SIZE + 2, SIZE + 1,
    ]  # fmt: skip
    assert {"<|a|>", "<|b|>", "<|c|>"} <= {
        each.content for each in tokenizer.added_tokens_decoder.values() if each.special
    }
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(models["base"]).chat_template
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.vocab_size == model.lm_head.out_features == SIZE + 3


def test_who_adds_what_is_said(grow: Grow, models: dict[str, Path]) -> None:
    members = {**models, "sea": grow("sea", [f"<|{n}|>" for n in range(5)])}
    said = opened(members).notes()
    assert said[0] == f"vocabularies differ: aligned by token to {SIZE + 5} rows of union"
    assert said[1] == "base: filled with the mean of the models that have them: 5"
    assert "sea adds 5 tokens" in said[-1] and said[-1].endswith("'<|0|>', '<|1|>', '<|2|>', ...")


def test_tokens_go_into_rows_that_were_padding(grow: Grow, models: dict[str, Path]) -> None:
    members = {
        "base": grow("base", height=SIZE + 4, value=-1),
        "sea": grow("sea", ["<|a|>"], 3),
    }
    parents = opened(members)
    assert parents.height == SIZE + 4
    assert rows_of(parents, "base")[SIZE:, 0].tolist() == [3.0, 0.0, 1.0, 2.0]
    assert rows_of(parents, "sea")[SIZE:, 0].tolist() == [3.0, 0.0, 1.0, 2.0]


def test_a_search_scores_with_the_tokenizer_of_the_union(
    grow: Grow, models: dict[str, Path], tmp_path: Path
) -> None:
    members = {**models, "sea": grow("sea", ["<|a|>"], 0.25)}
    made = recipe(members)
    parents = Parents.open(made)
    engine = HuggingFaceEngine.open(
        Blueprint.of(parents), parents.donor, EngineOptions(dtype="float32")
    )
    engine.load(Merge(Materializer(parents), made))
    text = engine.tokenizer.encode("hello<|a|>world")
    assert SIZE in text
    on_disk = AutoModelForCausalLM.from_pretrained(merge(made, tmp_path / "out"))
    with torch.no_grad():
        ours = engine.module()(torch.tensor([text])).logits
        theirs = on_disk(torch.tensor([text])).logits
    torch.testing.assert_close(ours, theirs)
    assert ours.shape[-1] == SIZE + 1


# -- pieces --------------------------------------------------------------------------------------


def retokenized(folder: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose tokenizer was changed, with a row for each of its tokens."""
    shutil.copytree(folder, out)
    content = tokenizer_of(out)
    change(content)
    (out / "tokenizer.json").write_text(json.dumps(content))
    set_height(out, SIZE + len(content["model"]["vocab"]) - 258, 7)
    return out


def with_merges(*merges: tuple[str, str]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["model"]["merges"] = [list(pair) for pair in merges]
        for one, two in merges:
            content["model"]["vocab"].setdefault(one + two, len(content["model"]["vocab"]))

    return change


def test_pieces_that_come_on_top_can_be_added(models: dict[str, Path], tmp_path: Path) -> None:
    """Where one makes words as the other does and then some, the union makes them as the larger one."""
    members = {
        "base": retokenized(models["base"], tmp_path / "b", with_merges(("t", "h"))),
        "sea": retokenized(models["sea"], tmp_path / "s", with_merges(("t", "h"), ("th", "e"))),
    }
    for order in (("base", "sea"), ("sea", "base")):
        parents = opened({name: members[name] for name in order})
        assert parents.height == SIZE + 2
        tokenizer = AutoTokenizer.from_pretrained(parents.donor.tokenizer_folder)
        assert tokenizer.encode("the th") == [SIZE + 1, *tokenizer.encode(" "), SIZE]
        assert rows_of(parents, "base")[SIZE:, 0].tolist() == [7.0, 8.0]  # sea's row of "the"


def test_pieces_and_added_tokens_at_once(
    grow: Grow, models: dict[str, Path], tmp_path: Path
) -> None:
    members = {
        "base": grow("base", ["<|a|>"], 3),
        "sea": retokenized(models["sea"], tmp_path / "s", with_merges(("t", "h"))),
    }
    parents = opened(members)
    tokenizer = AutoTokenizer.from_pretrained(parents.donor.tokenizer_folder)
    assert tokenizer.encode("<|a|>th") == [SIZE, SIZE + 1]
    assert rows_of(parents, "sea")[SIZE:, 0].tolist() == [3.0, 7.0]


def other_pre_tokenizer(content: dict[str, Any]) -> None:
    with_merges(("t", "h"))(content)
    content["pre_tokenizer"]["add_prefix_space"] = True


def other_kind(content: dict[str, Any]) -> None:
    vocab = {**content["model"]["vocab"], "word": 258}
    content["model"] = {"type": "WordLevel", "vocab": vocab, "unk_token": "<s>"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_merges(("h", "e"), ("t", "h")), "make their pieces by different merges, from number 1 on"),
        (other_pre_tokenizer, "tokenizers differ in their pre_tokenizer"),
        (other_kind, "tokenizers are of different kinds, WordLevel and BPE"),
    ],
)  # fmt: skip
def test_tokenizers_that_have_no_union_are_refused(
    models: dict[str, Path],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    says: str,
    cache: Path,
) -> None:
    members = {
        "base": retokenized(models["base"], tmp_path / "b", with_merges(("t", "h"))),
        "sea": retokenized(models["sea"], tmp_path / "s", change),
    }
    if change is other_pre_tokenizer:
        members["base"] = models["base"]
    with pytest.raises(Incompatible, match=says) as caught:
        opened(members)
    assert "Name one of the models as `tokenizer` instead" in str(caught.value)
    assert opened(members, tokenizer="base").height in (SIZE, SIZE + 1)
    assert not list(cache.glob("*"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"added_tokens": [{"id": 3}]},
        {"model": {"type": "BPE", "vocab": {"x": 0, "y": 1}, "merges": [["p", "q"]]}},
        {"pre_tokenizer": {"type": "NoSuch"}},
    ],
)
def test_a_broken_tokenizer_is_refused_by_name(
    grow: Grow, models: dict[str, Path], wrong: dict[str, Any]
) -> None:
    sea = grow("sea", ["<|a|>"])
    (sea / "tokenizer.json").write_text(json.dumps({**tokenizer_of(sea), **wrong}))
    with pytest.raises(InputError, match=r"grown-sea.*tokenizer"):
        opened({"base": models["base"], "sea": sea})


# -- rules ---------------------------------------------------------------------------------------


def rules_of(text: str) -> TokenRules:
    node = config.parse(f"models: {{a: x, b: y}}\ngroups: [{{method: linear}}]\n{text}")
    found = Recipe.parse(node).tokens
    assert found is not None
    return found


def test_rules_for_single_tokens(grow: Grow, models: dict[str, Path]) -> None:
    """Zeros, the row of a model or of another token; by force, also where a model has its own."""
    members = {"a": grow("chat", ["<|x|>", "<|y|>"], 10), "b": grow("sea", ["<|z|>"], 20)}
    rules = rules_of("""
tokenizer:
  source: union
  pad_to_multiple_of: 8
  tokens:
    <|x|>: {source: {kind: zero}}
    <|y|>: {source: {kind: model_token, model: b, token: <|z|>}, force: true}
    <|z|>: {source: b}
    <|new|>: {source: {kind: model_token, model: a, token_id: 3}}
""")
    parents = opened(members, rules)
    a, b = rows_of(parents, "a"), rows_of(parents, "b")
    assert parents.height == len(a) == 264  # 262 tokens
    assert (a[SIZE, 0], b[SIZE, 0]) == (10.0, 0.0)
    assert (a[SIZE + 1, 0], b[SIZE + 1, 0]) == (20.0, 20.0)
    assert (a[SIZE + 2, 0], b[SIZE + 2, 0]) == (20.0, 20.0)
    stored = load_file(members["a"] / "model.safetensors")[EMBED]
    assert torch.equal(a[SIZE + 3], stored[3]) and torch.equal(b[SIZE + 3], stored[3])
    for own in (a, b):  # padding: the mean of the rows of tokens
        torch.testing.assert_close(own[262], own[:262].mean(0), rtol=0, atol=1e-5)
        assert torch.equal(own[262], own[263])
    tokenizer = AutoTokenizer.from_pretrained(parents.donor.tokenizer_folder)
    assert tokenizer.encode("<|new|>") == [SIZE + 3] and len(tokenizer) == 262
    assert "filled as the recipe says" in "".join(parents.notes())


def test_padding_beside_one_models_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    made = recipe(models, {"source": "chat", "pad_to_multiple_of": 64}, "task_arithmetic")
    found = load_file(merge(made, tmp_path / "out") / "model.safetensors")
    plain = load_file(
        merge(recipe(models, "chat", "task_arithmetic"), tmp_path / "p") / "model.safetensors"
    )
    assert len(found[EMBED]) == 320 and torch.equal(found[EMBED][:SIZE], plain[EMBED])
    torch.testing.assert_close(
        found[EMBED][SIZE:], plain[EMBED].mean(0).expand(62, -1), rtol=0, atol=1e-5
    )
    files = ("tokenizer.json", "tokenizer_config.json")
    assert all(
        (tmp_path / "out" / f).read_bytes() == (models["chat"] / f).read_bytes() for f in files
    )


def test_rules_stand_in_a_recipe_and_its_digest(models: dict[str, Path]) -> None:
    given = {
        "source": "union",
        "pad_to_multiple_of": 16,
        "tokens": {
            "<|x|>": {
                "source": {"kind": "model_token", "model": "sea", "token": "a"},
                "force": True,
            },
            "<|y|>": {"source": {"kind": "zero"}},
        },
    }
    made = recipe(models, given)
    again = Recipe.parse(config.parse(made.to_yaml()))
    assert again.plain["tokenizer"] == given and again.digest == made.digest
    assert made.digest != recipe(models).digest != recipe(models, "chat").digest


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        ("unoin", r"'unoin' is no model of this recipe \(did you mean 'union'\?\)"),
        ({"source": "union", "tokens": {"x": {}}}, r"tokenizer.tokens.x.source: missing; expected a model, or a kind"),
        ({"source": "union", "tokens": {"x": {"source": "code"}}}, "'code' is no model of this recipe"),
        ({"source": "union", "tokens": {"x": {"source": {"kind": "model_token", "model": "sea"}}}}, "expected either token or token_id"),
        ({"source": "union", "pad_to_multiple_of": 0}, "expected a whole number"),
        ({"tokens": {}}, "tokenizer.source: missing"),
        ({"source": "union", "pad": 3}, "unknown key"),
    ],
)  # fmt: skip
def test_wrong_rules_are_refused(models: dict[str, Path], tokenizer: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        recipe(models, tokenizer)


def test_a_rule_that_means_no_row_is_refused(models: dict[str, Path]) -> None:
    rules = {"source": "union", "tokens": {"<|x|>": {"source": "sea"}}}
    with pytest.raises(Incompatible, match=r"'<\|x\|>': sea .* has no row for '<\|x\|>'"):
        Parents.open(recipe(models, rules))
    rules["tokens"] = {"a": {"source": {"kind": "model_token", "model": "sea", "token_id": 258}}}  # type: ignore[assignment]
    with pytest.raises(Incompatible, match="has no row for 258"):
        Parents.open(recipe(models, rules))


def test_a_source_may_be_called_union(models: dict[str, Path]) -> None:
    group_ = group("linear", ("union", "sea"))
    refs = {"union": ModelRef(str(models["chat"])), "sea": ModelRef(str(models["sea"]))}
    parents = Parents.open(Recipe(None, refs, Body((group_,)), tokenizer="union"))
    assert parents.donor.model is parents.models["union"]


# -- commands ------------------------------------------------------------------------------------


def test_a_search_and_a_score_go_by_it(
    grow: Grow,
    models: dict[str, Path],
    run_folder: Callable[..., Path],
    small: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The search's winner, exported and merged, has the tokenizer of the union, as had what was scored."""
    members = {**models, "sea": grow("sea", ["<|a|>"], 0.25)}
    named = {
        "base": str(members["base"]),
        "sources": {name: str(members[name]) for name in ("chat", "sea")},
        "tokenizer": "union",
    }
    run = run_folder(**{**small, "models": named})
    assert main(["check", str(run)]) == 0
    assert "sea adds 1 token to" in capsys.readouterr().out
    assert main(["search", str(run), "--ray", "off"]) == 0
    best = tmp_path / "best.yaml"
    assert main(["export", str(run), "-o", str(best)]) == 0
    assert Recipe.load(best).tokenizer == "union"
    out = merge(Recipe.load(best), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).encode("<|a|>") == [SIZE]
    ruled = recipe(members, {"source": "union", "tokens": {"<|b|>": {"source": {"kind": "zero"}}}})
    ruled.save(tmp_path / "ruled.yaml")
    fitness = tmp_path / "fitness.yaml"
    texts = [json.dumps({"text": f"passage {n} <|a|><|b|>"}) for n in range(30)]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    fitness.write_text("objectives: {text: {text: texts.jsonl}}\nitems: {select: 4}\n")
    capsys.readouterr()
    asked = ["score", str(tmp_path / "ruled.yaml"), "--fitness", str(fitness), "--json"]
    assert main(asked) == 0, capsys.readouterr().err
