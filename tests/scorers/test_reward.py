"""Rewards are those of plain forward passes; merges of a reward model and language models are scored by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from evomerge import config, merge
from evomerge.checkpoint import ModelRef
from evomerge.commands.check import check
from evomerge.commands.score import score_model
from evomerge.commands.search import search
from evomerge.engines import Request
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
from evomerge.recipe import Body, Recipe, group
from evomerge.scorers.reward import Preferences
from evomerge.testing.models import byte_tokenizer
from evomerge.testing.zoo import tiny_members

REWARD, LANGUAGE = "LlamaForSequenceClassification", "LlamaForCausalLM"


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Language models ``base`` and ``domain``, and a reward model ``rm`` a step away from the base."""
    folder = tmp_path_factory.mktemp("members")
    made = tiny_members(folder, "llama", LANGUAGE, ("base", "domain"))
    made |= tiny_members(folder, "llama", REWARD, ("rm",), num_labels=1)
    made |= tiny_members(folder, "llama", REWARD, ("two",), num_labels=2)
    base = load_file(made["base"] / "model.safetensors")
    model = getattr(transformers, REWARD).from_pretrained(made["rm"])
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            parameter.copy_(
                base[f"model.{name}"] + 0.02 * (parameter - base[f"model.{name}"]).sign()
            )
    model.save_pretrained(made["rm"])
    return made


def recipe_of(members: dict[str, Path], rm: float, **more: Any) -> Recipe:
    weights = {"rm": rm, "domain": 1 - rm}
    sources = {name: ModelRef(str(members[name])) for name in weights}
    body = Body((group("linear", ("rm", "domain"), {"weight": weights, "normalize": False}),))
    return Recipe(ModelRef(str(members["base"])), sources, body, "float32", tokenizer="rm", **more)


def test_rewards_are_those_of_plain_passes(judge: HuggingFaceEngine, pairs: Path) -> None:
    scorer = Preferences("pairs", pairs)
    scorer.bind(judge)
    found = scorer.score([item.id for item in scorer.items()])
    tokenizer, model = judge.tokenizer, judge.module()
    first = [{"role": "user", "content": "3+3?"}]
    for answer, reward in zip(("6", "7", "It is nine.", "33"), found["responses"][1], strict=True):
        text = tokenizer.apply_chat_template(
            [*first, {"role": "assistant", "content": answer}], tokenize=False
        )
        plain = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits
        assert reward == pytest.approx(float(plain), abs=1e-6)
    for rewards, right, margin in zip(
        found["responses"], found["metrics"]["accuracy"], found["metrics"]["margin"], strict=True
    ):
        assert margin == rewards[0] - max(rewards[1:])
        assert right == (rewards[0] > max(rewards[1:]))
    assert [len(each) for each in found["responses"]] == [2, 4, 2, 3, 2]
    items = scorer.items()
    assert (items[0].stratum, items[1].source, items[2].source) == ("math", "s", "2")


def test_a_reward_model_without_a_padding_token(judge: HuggingFaceEngine, pairs: Path) -> None:
    scorer = Preferences("pairs", pairs)
    scorer.bind(judge)
    found = scorer.score(["0", "3"])["responses"]
    judge.module().config.pad_token_id = None
    for rewards, again in zip(found, scorer.score(["0", "3"])["responses"], strict=True):
        assert again == pytest.approx(rewards, abs=1e-6)


def test_equal_rewards_are_no_preference(judge: HuggingFaceEngine, pairs: Path) -> None:
    scorer = Preferences("pairs", pairs)
    scorer.bind(judge)
    with torch.no_grad():
        judge.module().score.weight.zero_()
    found = scorer.score(["0", "1"])
    assert found["metrics"] == {"accuracy": [0.0, 0.0], "margin": [0.0, 0.0]}


def test_a_long_conversation_loses_its_beginning(judge: HuggingFaceEngine, pairs: Path) -> None:
    judge.max_length = 9
    scorer = Preferences("pairs", pairs)
    scorer.bind(judge)
    found = scorer.score(["4"])
    text = judge.tokenizer.apply_chat_template(json.loads(pairs.read_text().splitlines()[4])["chosen"], tokenize=False)  # fmt: skip
    tokens = judge.tokenizer(text, add_special_tokens=False)["input_ids"][-9:]
    plain = judge.module()(input_ids=torch.tensor([tokens])).logits
    assert found["responses"][0][0] == pytest.approx(float(plain), abs=1e-6)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "1: rejected: expected a text, or a list of messages with role and content, found None"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "1: prompt: expected a text"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "subsets": "d"}, "1: unknown key 'subsets' (did you mean 'subset'?)"),
        ({"prompt": "a", "chosen": "b", "rejected": []}, "1: rejected: expected a text"),
        ({"prompt": "a", "chosen": "b", "rejected": ["c", ""]}, "1: rejected: expected a text"),
        ({"chosen": "b", "rejected": "c"}, "1: chosen: expected a conversation, as there is no prompt, found 'b'"),
    ],
)  # fmt: skip
def test_malformed_pairs(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(InputError) as caught:
        Preferences("pairs", file)
    assert message in str(caught.value)


def test_models_that_give_no_reward(
    live: HuggingFaceEngine, judge: HuggingFaceEngine, pairs: Path
) -> None:
    scorer = Preferences("pairs", pairs)
    with pytest.raises(InputError, match="LlamaForCausalLM is none; name a"):
        scorer.bind(live)
    judge.module().config.num_labels = 2
    with pytest.raises(InputError, match=r"this LlamaForSequenceClassification gives 2"):
        scorer.bind(judge)
    with pytest.raises(InputError, match="no head over tokens"):
        judge.loglikelihood([Request((1, 2), (3,))])
    with pytest.raises(InputError, match="no head over tokens"):
        judge.generate([(1, 2)], until=(), limit=3)


def test_a_template_that_refuses_an_item(judge: HuggingFaceEngine, pairs: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system.') }}{% endif %}x"  # fmt: skip
    scorer = Preferences("pairs", pairs)
    scorer.bind(HuggingFaceEngine(judge.module(), tokenizer))
    scorer.score(["0"])
    with pytest.raises(InputError, match=r"pairs, item 2: the chat template refuses it: No system"):
        scorer.score(["2"])


def test_a_reward_model_keeps_its_value_head(tmp_path: Path, members: dict[str, Path]) -> None:
    """DogeRM: its transformer is averaged with the domain's, whose head over tokens is left out."""
    out = merge(recipe_of(members, 0.75), tmp_path / "out")
    model, info = getattr(transformers, REWARD).from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.num_labels == 1
    made = load_file(out / "model.safetensors")
    rm, domain = (load_file(members[name] / "model.safetensors") for name in ("rm", "domain"))
    assert set(made) == set(rm) and "lm_head.weight" not in made
    for name, tensor in made.items():
        if name == "score.weight":
            assert torch.equal(tensor, rm[name])
        else:
            assert torch.allclose(tensor, 0.75 * rm[name] + 0.25 * domain[name], atol=1e-6), name


@pytest.mark.slow
def test_a_search_for_a_reward_model(
    tmp_path: Path, members: dict[str, Path], run_folder: Callable[..., Path], small: dict[str, Any]
) -> None:
    """What a candidate scored in memory is what the folder of the winner scores."""
    names = ("a", "b", "c", "d", "e")
    rows = [
        {"prompt": f"{n}{name}", "chosen": f"yes {n}", "rejected": f"no, {name}!"}
        for n in range(6)
        for name in names
    ]
    fitness = {**small["fitness"], "objectives": {"pairs": {"reward": "pairs.jsonl"}}}
    models = {"base": str(members["base"]), "sources": {n: str(members[n]) for n in ("rm", "domain")}, "tokenizer": "rm"}  # fmt: skip
    job = {**small, "fitness": fitness, "models": models, "dtype": "float32", "budget": {"evaluations": 10}}  # fmt: skip
    folder = run_folder(**job)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = "\n".join(check(folder))
    assert f"domain is a {LANGUAGE}, the merge a {REWARD} as rm is: 'score.weight' of a {REWARD} it lacks, and leaves as in rm; left out of it: 'lm_head.weight'" in told  # fmt: skip
    result = search(folder)
    assert result.table.winner_row is not None
    (folder / "fitness.yaml").write_text(config.dump(fitness))
    best = merge(Recipe.load(folder / "best.yaml"), tmp_path / "best")
    found = score_model(str(best), folder / "fitness.yaml", "report", again=True)["objectives"]
    assert found["pairs"]["value"] == result.table.winner_row.objectives["pairs"].value


@pytest.mark.parametrize(
    ("tokenizer", "objective", "message"),
    [
        ("rm", {"text": "texts.jsonl"}, f"texts.jsonl asks for tokens, and merges are of the kind of rm .*a {REWARD}, which has no head over tokens"),
        ("two", {"reward": "pairs.jsonl"}, f"a reward is one number, and this {REWARD} gives 2"),
        ("rm", {"retrieval": "pairs.jsonl"}, "objectives.x: neither `pooling` nor the files"),
        ("domain", {"reward": "pairs.jsonl"}, f"objectives.x: merges are of the kind of base .*a {LANGUAGE}: a reward is what a sequence classifier gives"),
    ],
)  # fmt: skip
def test_scorers_that_do_not_fit_are_refused_at_once(
    members: dict[str, Path],
    run_folder: Callable[..., Path],
    small: dict[str, Any],
    tokenizer: str,
    objective: dict[str, str],
    message: str,
) -> None:
    names = ("two" if tokenizer == "two" else "rm", "domain")
    sources = {name: str(members[name]) for name in names}
    models = {"base": str(members["base"]), "sources": sources, "tokenizer": tokenizer}
    fitness = {**small["fitness"], "objectives": {"x": objective}}
    folder = run_folder(**{**small, "models": models, "fitness": fitness})
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps({**row, 'prompt': str(n)})}\n" for n in range(30)))  # fmt: skip
    with pytest.raises(InputError, match=message):
        search(folder)
    assert not (folder / "journal.jsonl").exists()
