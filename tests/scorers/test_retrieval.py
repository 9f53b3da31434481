"""Embeddings and rankings as sentence-transformers and the formulas have them; encoders as parents."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from evomerge import config, merge, merge_into
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.checkpoint.contents import digests
from evomerge.commands.score import score_model
from evomerge.commands.search import search
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import CheckpointError, InputError
from evomerge.recipe import Body, Recipe, group
from evomerge.scorers.retrieval import Retrieval
from evomerge.testing.models import byte_tokenizer
from evomerge.testing.zoo import tiny_members

ENCODERS = {
    "bert": "BertModel",
    "modernbert": "ModernBertModel",
    "xlm-roberta": "XLMRobertaModel",
    "mpnet": "MPNetModel",
    "llama": "LlamaModel",
}


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """BERT encoders, one of which is a folder of sentence-transformers with mean pooling."""
    members = tiny_members(
        tmp_path_factory.mktemp("bert"), "bert", "BertModel", initializer_range=0.1
    )
    sentence_folder(members["a"], "mean")
    return members


def sentence_folder(folder: Path, pooling: str) -> None:
    """Make ``folder`` one of sentence-transformers."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens", "lasttoken", "max_tokens")}  # fmt: skip
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, **modes})
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')


def recipe_of(members: dict[str, Path], tokenizer: str = "base") -> Recipe:
    sources = {name: ModelRef(str(folder)) for name, folder in members.items() if name != "base"}
    body = Body((group("ties", tuple(sources), {"weight": 0.7, "density": 0.6}),))
    return Recipe(ModelRef(str(members["base"])), sources, body, "float32", tokenizer=tokenizer)


def engine_of(folder: Path) -> HuggingFaceEngine:
    model = transformers.AutoModel.from_pretrained(folder).eval().requires_grad_(False)
    return HuggingFaceEngine(model, transformers.AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize(("model_type", "architecture"), sorted(ENCODERS.items()))
def test_encoders_are_merged_to_disk_and_in_memory(
    tmp_path: Path, model_type: str, architecture: str
) -> None:
    members = tiny_members(tmp_path, model_type, architecture)
    kind, recipe = getattr(transformers, architecture), recipe_of(members)
    model, info = kind.from_pretrained(merge(recipe, tmp_path / "out"), output_loading_info=True)
    assert not any(info.values()), info
    live = kind.from_pretrained(members["base"])
    merge_into(recipe, live)
    changed = {
        name: not torch.equal(tensor, model.state_dict()[name])
        for name, tensor in kind.from_pretrained(members["base"]).state_dict().items()
    }
    assert all(changed[name] for name, _ in model.named_parameters()), "all of it is merged"
    for name, tensor in live.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_an_encoder_takes_over_from_one_with_a_head(tmp_path: Path) -> None:
    """Names differ by a prefix; the encoder keeps its pooler, the other loses its head."""
    members = tiny_members(tmp_path, "bert", "BertModel", ("base", "a"))
    members |= tiny_members(tmp_path, "bert", "BertForMaskedLM", ("masked",))
    sources = ("a", "masked")
    recipe = Recipe(
        None,
        {name: ModelRef(str(members[name])) for name in sources},
        Body((group("linear", sources),)),
        "float32",
        tokenizer="a",
    )
    made = load_file(merge(recipe, tmp_path / "out") / "model.safetensors")
    one, other = (load_file(members[name] / "model.safetensors") for name in sources)
    for name, tensor in made.items():
        mean = one[name] if "pooler" in name else (one[name] + other[f"bert.{name}"]) / 2
        assert torch.allclose(tensor, mean, atol=1e-6), name


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_rankings_are_those_of_plain_passes(
    tmp_path: Path, encoders: dict[str, Path], queries: Path, pooling: str
) -> None:
    engine = engine_of(encoders["b"])
    # the first state of a text depends on little but its first token
    prefix = "" if pooling == "cls" else "p: "
    scorer = Retrieval("queries", queries, k=2, pooling=pooling, query_prefix="query: ", text_prefix=prefix)  # fmt: skip
    scorer.bind(engine)
    found = scorer.score([item.id for item in scorer.items()])

    def embedded(text: str) -> Any:
        states = engine.module()(**engine.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vector = {"cls": states[0], "mean": states.mean(0), "last": states[-1]}[pooling]
        return (vector / vector.norm()).double().numpy()

    for number, line in enumerate(queries.read_text().splitlines()):
        row = json.loads(line)
        query = embedded("query: " + row["query"])
        texts = [embedded(prefix + text) for text in (*row["positives"], *row["negatives"])]
        similar = np.array([float(query @ text) for text in texts])
        order = list(np.argsort(-similar))
        ranks = sorted(1 + order.index(n) for n in range(len(row["positives"])))
        assert [rank for rank, _ in found["responses"][number]] == ranks
        assert found["responses"][number][0][1] == pytest.approx(similar[order[ranks[0] - 1]], abs=1e-5)  # fmt: skip
        gain = sum(1 / math.log2(1 + rank) for rank in ranks if rank <= 2)
        best = sum(1 / math.log2(1 + rank) for rank in range(1, len(ranks) + 1))
        metrics = {name: values[number] for name, values in found["metrics"].items()}
        assert metrics["ndcg"] == pytest.approx(gain / best)
        assert metrics["recall"] == sum(rank <= 2 for rank in ranks) / len(ranks)
        assert metrics["mrr"] == (1 / ranks[0] if ranks[0] <= 2 else 0)


def test_a_corpus_is_ranked_whole(tmp_path: Path, encoders: dict[str, Path], queries: Path) -> None:
    texts = [f"Text {n} {'of many ' * (n % 4)}" for n in range(9)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))  # fmt: skip
    rows = [{"query": f"Text {n}", "positives": [str(n), "8"]} for n in range(4)]
    queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scorer = Retrieval("queries", queries, corpus=corpus, pooling="mean")
    engine = engine_of(encoders["base"])
    scorer.bind(engine)
    found = scorer.score(["2"])
    spelled = {"query": "Text 2", "positives": [texts[2], texts[8]], "negatives": texts[:2] + texts[3:8]}  # fmt: skip
    queries.write_text(json.dumps(spelled))
    same = Retrieval("queries", queries, pooling="mean")
    same.bind(engine)
    assert found["responses"] == same.score(["0"])["responses"]
    queries.write_text(json.dumps({"query": "x", "positives": ["9"]}))
    with pytest.raises(InputError, match=r"queries.jsonl:1: positives: the corpus has no id '9'"):
        Retrieval("queries", queries, corpus=corpus)


def test_one_ranking_tells_of_several_first(encoders: dict[str, Path], queries: Path) -> None:
    engine, found = engine_of(encoders["b"]), []
    for first in (1, 3, (1, 3)):
        scorer = Retrieval("queries", queries, k=first, pooling="mean")
        scorer.bind(engine)
        found.append(scorer.score([item.id for item in scorer.items()])["metrics"])
    one, three, both = found
    assert both == {
        **{f"{name}@1": values for name, values in one.items()},
        **{f"{name}@3": values for name, values in three.items()},
    }
    assert one != three
    assert scorer.resolve_metric("ndcg@3") == "ndcg@3"
    with pytest.raises(InputError, match=r"no metric 'ndcg'.*ndcg@1"):
        scorer.resolve_metric("ndcg")


def test_a_model_that_says_one_thing_of_all_texts_finds_nothing(
    encoders: dict[str, Path], queries: Path
) -> None:
    engine = engine_of(encoders["base"])
    with torch.no_grad():
        for name, parameter in engine.module().named_parameters():
            parameter.fill_(float(name.endswith("bias")))
    scorer = Retrieval("queries", queries, k=2, pooling="mean")
    scorer.bind(engine)
    assert scorer.score(["1"])["metrics"] == {"ndcg": [0.0], "recall": [0.0], "mrr": [0.0]}


def test_pooling_and_length_are_those_of_sentence_transformers(
    tmp_path: Path, encoders: dict[str, Path], queries: Path
) -> None:
    engine = engine_of(encoders["a"])
    scorer = Retrieval("queries", queries)
    scorer.bind(engine)
    texts = json.loads(queries.read_text().splitlines()[1])
    found = scorer.score(["1"])

    def embedded(text: str) -> torch.Tensor:
        tokens = engine.tokenizer(text, return_tensors="pt")["input_ids"][:, :12]
        mean: torch.Tensor = engine.module()(input_ids=tokens).last_hidden_state[0].mean(0)
        return mean

    query = embedded(texts["query"])
    best = max(float(torch.cosine_similarity(query, embedded(text), dim=0)) for text in texts["positives"])  # fmt: skip
    assert found["responses"][0][0][1] == pytest.approx(best, abs=1e-6)
    with pytest.raises(InputError, match="neither `pooling` nor the files of a sentence-transf"):
        Retrieval("queries", queries).bind(engine_of(encoders["b"]))
    sentence_folder(tmp_path, "max")
    tokenizer = byte_tokenizer()
    tokenizer.name_or_path = str(tmp_path)
    with pytest.raises(InputError, match=r"1_Pooling/config.json: expected one pooling"):
        Retrieval("queries", queries).bind(HuggingFaceEngine(engine.module(), tokenizer))


def test_what_sentence_transformers_needs_goes_along(
    tmp_path: Path, encoders: dict[str, Path]
) -> None:
    out = merge(recipe_of(encoders, tokenizer="a"), tmp_path / "out")
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (out / name).read_bytes() == (encoders["a"] / name).read_bytes()
    assert not (merge(recipe_of(encoders), tmp_path / "plain") / "modules.json").exists()
    own = shutil.copytree(encoders["a"], tmp_path / "own")
    text = (own / "modules.json").read_text()
    (own / "modules.json").write_text(text.replace("sentence_transformers.models.", "mine.", 1))
    out = merge(recipe_of({**encoders, "a": own}, tokenizer="a"), tmp_path / "theirs")
    assert not (out / "modules.json").exists(), "it names code that does not go along"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"modules.json: expected a list of modules, found \{\}"),
        ("[", "modules.json: not readable JSON"),
        ('[{"type": "sentence_transformers.models.Dense", "path": "../other"}]', r"modules.json: \[0\]: expected type and path"),
        ('[{"type": "sentence_transformers.models.Dense"}]', r"modules.json: \[0\]: expected type and path"),
        ('[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]', "2_Dense: the weights of this Dense are a pickle"),
    ],
)  # fmt: skip
def test_modules_that_cannot_be_copied_are_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    members = tiny_members(tmp_path, "bert", "BertModel")
    (members["base"] / "modules.json").write_text(content)
    (members["base"] / "2_Dense").mkdir()
    (members["base"] / "2_Dense/pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match=message):
        merge(recipe_of(members), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["sentence_transformers", "mine"])
def test_what_says_how_texts_are_pooled_counts_for_a_resumed_run(
    tmp_path: Path, encoders: dict[str, Path], queries: Path, package: str
) -> None:
    own = shutil.copytree(encoders["a"], tmp_path / "own")
    modules = (own / "modules.json").read_text()
    (own / "modules.json").write_text(modules.replace("sentence_transformers", package))
    Retrieval("queries", queries).bind(engine_of(own))  # its files say how
    before = digests(Checkpoint("own", own))
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        (own / name).write_text((own / name).read_text() + " ")
        assert digests(Checkpoint("own", own))[name] != before[name]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "positives": ["b"], "negative": ["c"]}, r":2: unknown key 'negative' \(did you mean 'negatives'"),
        ({"query": "a", "positives": ["b"], "negatives": ["c"], "source": 1}, ":2: unknown key 'source' .*'source_id'"),
    ],
)  # fmt: skip
def test_unknown_keys_are_refused(queries: Path, row: dict[str, Any], message: str) -> None:
    first = queries.read_text().splitlines()[0]
    queries.write_text(f"{first}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=rf"queries\.jsonl{message}"):
        Retrieval("queries", queries)
    corpus = queries.with_name("corpus.jsonl")
    corpus.write_text(json.dumps({"id": 1, "text": "b", "titel": "c"}))
    with pytest.raises(
        InputError, match=r"corpus\.jsonl:1: unknown key 'titel'; expected id, text"
    ):
        Retrieval("queries", queries, corpus=corpus)


@pytest.mark.slow
def test_a_search_for_an_encoder(
    tmp_path: Path,
    encoders: dict[str, Path],
    run_folder: Callable[..., Path],
    small: dict[str, Any],
) -> None:
    rows = [
        {"query": f"Where is {n}?", "positives": [f"{n} is here"], "negatives": ["What?", f"{n + 1} is there"]}
        for n in range(30)
    ]  # fmt: skip
    fitness = {**small["fitness"], "objectives": {"found": {"retrieval": "queries.jsonl", "k": 2}}}
    models = {"base": str(encoders["base"]), "sources": {n: str(encoders[n]) for n in ("a", "b")}, "tokenizer": "a"}  # fmt: skip
    folder = run_folder(**{**small, "fitness": fitness, "models": models, "dtype": "float32", "budget": {"evaluations": 10}})  # fmt: skip
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = search(folder)
    assert result.table.winner_row is not None
    (folder / "fitness.yaml").write_text(config.dump(fitness))
    best = merge(Recipe.load(folder / "best.yaml"), tmp_path / "best")
    found = score_model(str(best), folder / "fitness.yaml", "report", again=True)["objectives"]
    assert found["found"]["value"] == result.table.winner_row.objectives["found"].value
