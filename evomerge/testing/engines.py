"""What every engine must hold to, as tests: subclass and name the engine.

class TestMine(EngineContract):
    engine = "mine"        # as a suite names it; a plugin's entry point counts

The models are the embedded family's and a merge of them: three, because an engine that leaves part of
the weights as they were may still look right when it goes from one model to another and back. What is
right is what transformers says of the merged folders, one input at a time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.checkpoint import ModelRef
from evomerge.engines import Engine, EngineOptions, Outline, Request, Scored, Take, Tokens
from evomerge.errors import CandidateFailed
from evomerge.merging import Materializer, Merge, merge, open_parents
from evomerge.merging.blueprint import Blueprint
from evomerge.parents import Parents
from evomerge.paths import Hop
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.registry import ENGINES

ASKED: Mapping[str, tuple[str, ...]] = {
    "Thai 82, percent": ("% Thai 82: แปดสิบสอง.", "# Thai 82: แปดสิบสอง.", "% Thai 82: eighty-two."),
    "Vietnamese 44, at": ("@ Vietnamese 44: bốn mươi bốn.", "@", "~ Vietnamese 44: hai mươi."),
    "Vietnamese 10, percent": ("% Vietnamese 10: mười.", "% Vietnamese 10: ten.", "%"),
    "English 7, hash": ("# English 7: seven.", "seven"),
    "Indonesian 12, star": ("* Indonesian 12: dua belas.", "* Indonesian 12: twelve."),
}
LIMIT = 16  # tokens of an answer; some of the models' answers are longer


def recipe_of(*groups: Group) -> Recipe:
    """Over the embedded family, in float32, with the tokenizer of ``chat``."""
    refs = {name: ModelRef(f"embedded:{name}") for name in ("chat", "sea")}
    return Recipe(ModelRef("embedded:base"), refs, Body(groups), dtype="float32", tokenizer="chat")


RECIPES: Mapping[str, Recipe] = {
    "chat": recipe_of(group("passthrough", ("chat",))),
    "sea": recipe_of(group("passthrough", ("sea",))),
    "both": recipe_of(
        group("task_arithmetic", ("chat", "sea"), {"weight": {"chat": 0.7, "sea": 0.6}})
    ),
}


@dataclass(frozen=True)
class Truth:
    """What transformers says of a merged model, one input at a time."""

    model: Any

    @torch.no_grad()
    def scored(self, request: Request, length: int) -> Scored:
        tokens = (request.context + request.continuation)[-length - 1 :]
        wanted = torch.tensor(request.continuation)
        logits = self.model(torch.tensor([tokens[:-1]])).logits[0, -len(wanted) :].float()
        nats = logits.log_softmax(-1).gather(1, wanted[:, None]).sum()
        return Scored(float(nats), bool((logits.argmax(-1) == wanted).all()))

    @torch.no_grad()
    def written(self, prompt: Tokens, limit: int) -> list[int]:
        """A greedy answer, with its end-of-sequence token if it comes to one."""
        tokens = torch.tensor([list(prompt)])
        made = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_length=len(prompt) + limit,
        )
        answer: list[int] = made[0, len(prompt) :].tolist()
        return answer


@dataclass(frozen=True)
class Stored:
    """Weights as they are, such as no merge hands out; after half of them ``fault`` is raised."""

    outline: Outline
    tensors: Mapping[str, torch.Tensor]
    fault: Exception | None = None

    def into(self, model: Any) -> None:
        parameters = dict(model.named_parameters())
        self.each(lambda name, tensor: parameters[name].data.copy_(tensor))

    def each(self, take: Take) -> None:
        for number, (name, tensor) in enumerate(self.tensors.items()):
            if self.fault is not None and 2 * number >= len(self.tensors):
                raise self.fault
            room = tensor.clone()
            take(name, room)
            room.fill_(math.nan)  # taken by reference, it is lost


def stored(parents: Parents, model: str) -> dict[str, torch.Tensor]:
    """A parent's own weights, by the names of the merged model."""
    sites = Blueprint.of(parents).sites
    return {site.name: parents.tensor(model, site.origin[model]).float() for site in sites}


def relisted(model: Any, blocks: Sequence[int]) -> Any:
    """The Llama ``model`` with these of its blocks, in this order."""
    made = copy.deepcopy(model)
    made.model.layers = torch.nn.ModuleList(
        copy.deepcopy(made.model.layers[block]) for block in blocks
    )
    for number, block in enumerate(made.model.layers):
        block.self_attn.layer_idx = number  # its keys and values in a cache
    made.config.num_hidden_layers = len(blocks)
    return made


class EngineContract:
    """Laws of ``Engine``.

    Attributes:
        engine: its name.
        options: how it is opened.
        nats: how far a log-probability may be from that of transformers.
    """

    engine: ClassVar[str]
    options: ClassVar[EngineOptions] = EngineOptions()
    nats: ClassVar[float] = 1e-4

    # -- what the tests use ----------------------------------------------------------------------

    @pytest.fixture(scope="class")
    def truths(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Truth]:
        folder = tmp_path_factory.mktemp("merged")
        return {
            name: Truth(
                AutoModelForCausalLM.from_pretrained(
                    merge(recipe, folder / name), dtype=torch.float32
                ).eval()
            )
            for name, recipe in RECIPES.items()
        }

    @pytest.fixture(scope="class")
    def parents(self) -> Parents:
        return open_parents(RECIPES["both"])

    @pytest.fixture(scope="class")
    def held(self) -> Iterator[list[Engine]]:
        """The engine that is open, if one is: a process has one at a time."""
        engines: list[Engine] = []
        yield engines
        for engine in engines:
            engine.close()

    @pytest.fixture
    def resident(self, held: list[Engine], parents: Parents) -> Engine:
        """One engine for all tests: whatever was loaded or asked before may not show."""
        if not held:
            held.append(self.open(parents))
        return held[0]

    @pytest.fixture
    def materializer(self, parents: Parents) -> Materializer:
        """One that knows nothing of what the engine holds."""
        return Materializer(parents, threads=2)

    def open(self, parents: Parents, **options: Any) -> Engine:
        made: Engine = ENGINES.get(self.engine).open(
            Blueprint.of(parents), parents.donor, replace(self.options, **options)
        )
        return made

    @contextmanager
    def fresh(self, held: list[Engine], parents: Parents, **options: Any) -> Iterator[Engine]:
        """Another engine in the place of the one that is open."""
        while held:
            held.pop().close()
        engine = self.open(parents, **options)
        try:
            yield engine
        finally:
            engine.close()

    def prompts(self, engine: Engine) -> list[tuple[int, ...]]:
        """In chat form: all begin alike, and some are equal at first."""
        chats = ([{"role": "user", "content": question}] for question in ASKED)
        texts = [
            engine.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            for chat in chats
        ]
        return [tuple(engine.tokenizer.encode(text)) for text in texts]

    def requests(self, engine: Engine) -> list[Request]:
        """Choices behind one context, one context that goes on from another, single tokens."""
        made = []
        for prompt, answers in zip(self.prompts(engine), ASKED.values(), strict=True):
            made += [Request(prompt, tuple(engine.tokenizer.encode(answer))) for answer in answers]
            made.append(Request(prompt[:-3], prompt[-3:]))
        return made

    def assert_right(self, engine: Engine, truth: Truth) -> list[float]:
        """It answers as the model does; the log-probabilities, in nats."""
        requests = self.requests(engine)
        answers = engine.loglikelihood(requests)
        for request, answer in zip(requests, answers, strict=True):
            expected = truth.scored(request, engine.max_length)
            assert answer.nats == pytest.approx(expected.nats, abs=self.nats, rel=0)
            assert answer.greedy == expected.greedy
        return [answer.nats for answer in answers]

    # -- laws ------------------------------------------------------------------------------------

    def test_every_load_is_what_runs(
        self, resident: Engine, materializer: Materializer, truths: dict[str, Truth]
    ) -> None:
        found = []
        for name in ("chat", "sea", "both", "chat", "both"):
            resident.load(Merge(materializer, RECIPES[name]))
            found.append(self.assert_right(resident, truths[name]))
        chat, sea, both, again, last = found
        assert again == chat and last == both
        for one, other in ((chat, sea), (sea, both), (both, chat)):
            apart = [abs(a - b) for a, b in zip(one, other, strict=True)]
            assert min(apart) > 10 * self.nats, "these models answer alike: nothing is shown"

    def test_a_fresh_engine_answers_alike(
        self,
        resident: Engine,
        held: list[Engine],
        materializer: Materializer,
        parents: Parents,
    ) -> None:
        for name in ("chat", "sea", "both"):
            resident.load(Merge(materializer, RECIPES[name]))
            answers = resident.loglikelihood(self.requests(resident))
        written = self._write(resident)
        with self.fresh(held, parents) as engine:
            engine.load(Merge(Materializer(parents), RECIPES["both"]))
            expected = engine.loglikelihood(self.requests(engine))
            assert self._write(engine) == written
        assert [a.greedy for a in answers] == [e.greedy for e in expected]
        nats = [answer.nats for answer in expected]
        assert [a.nats for a in answers] == pytest.approx(nats, abs=self.nats, rel=0)

    def test_a_candidate_may_have_another_depth(
        self,
        resident: Engine,
        parents: Parents,
        materializer: Materializer,
        truths: dict[str, Truth],
    ) -> None:
        """Blocks twice, blocks left out, and the usual ones again."""
        recipe, known = RECIPES["both"], truths["both"]
        for blocks in ((0, 1, 1, 2, 2, 3), (3, 0), (0, 3), None):
            path = blocks and tuple(map(Hop, blocks))
            resident.load(
                Merge(materializer, replace(recipe, body=replace(recipe.body, path=path)))
            )
            truth = Truth(relisted(known.model, blocks)) if blocks else known
            self.assert_right(resident, truth)
            (prompt, *_), ((_, tokens, _), *_) = self.prompts(resident), self._write(resident)
            eos = resident.tokenizer.eos_token_id
            assert tokens == [token for token in truth.written(prompt, LIMIT) if token != eos]

    @pytest.mark.parametrize("name", list(RECIPES))
    def test_greedy_answers_are_the_models_own(
        self, name: str, resident: Engine, materializer: Materializer, truths: dict[str, Truth]
    ) -> None:
        resident.load(Merge(materializer, RECIPES[name]))
        eos = resident.tokenizer.eos_token_id
        for prompt, (text, tokens, truncated) in zip(
            self.prompts(resident), self._write(resident), strict=True
        ):
            expected = truths[name].written(prompt, LIMIT)
            ended = expected[-1] == eos
            assert tokens == expected[:-1] if ended else tokens == expected
            assert text == resident.tokenizer.decode(expected, skip_special_tokens=True)
            assert truncated == (not ended)

    def test_an_answer_ends_at_a_stop_in_its_text(
        self, resident: Engine, materializer: Materializer
    ) -> None:
        resident.load(Merge(materializer, RECIPES["both"]))
        (text, tokens, _), *_ = self._write(resident)
        stop = text[3:5]
        (stopped,) = resident.generate(
            self.prompts(resident)[:1], until=["never", stop], limit=LIMIT
        )
        assert stop in stopped.text and text.startswith(stopped.text)
        assert list(stopped.tokens) == tokens[: len(stopped.tokens)] != tokens
        assert not stopped.truncated

    def test_answers_depend_on_nothing_asked_before(
        self, resident: Engine, materializer: Materializer
    ) -> None:
        resident.load(Merge(materializer, RECIPES["sea"]))
        requests = self.requests(resident)
        whole = resident.loglikelihood(requests)
        assert resident.loglikelihood(requests) == whole
        part = resident.loglikelihood(requests[3:7])
        assert [a.nats for a in part] == pytest.approx(
            [a.nats for a in whole[3:7]], abs=self.nats, rel=0
        )
        written = self._write(resident)
        resident.generate(self.prompts(resident)[:1], until=[], limit=3)
        assert self._write(resident) == written
        assert resident.loglikelihood(requests) == whole
        assert resident.loglikelihood([]) == [] == resident.generate([], until=[], limit=3)

    def test_inputs_that_are_too_long_lose_their_beginning(
        self, held: list[Engine], parents: Parents, truths: dict[str, Truth]
    ) -> None:
        with self.fresh(held, parents, max_length=24) as engine:
            assert engine.max_length == 24
            engine.load(Merge(Materializer(parents), RECIPES["chat"]))
            self.assert_right(engine, truths["chat"])
            prompt = (self.prompts(engine)[0] * 3)[:40]
            (answer,) = engine.generate([prompt], until=[], limit=6)
            expected = truths["chat"].written(prompt[-18:], 6)
            assert list(answer.tokens) == [
                t for t in expected if t != engine.tokenizer.eos_token_id
            ]

    def test_nan_is_no_answer(
        self, resident: Engine, parents: Parents, truths: dict[str, Truth]
    ) -> None:
        weights = stored(parents, "chat")
        middle = list(weights)[len(weights) // 2]
        broken = weights | {middle: torch.full_like(weights[middle], math.nan)}
        resident.load(Stored(Blueprint.of(parents), broken))
        assert all(math.isnan(a.nats) for a in resident.loglikelihood(self.requests(resident)))
        with pytest.raises(FloatingPointError):
            self._write(resident)
        resident.load(Stored(Blueprint.of(parents), weights))
        self.assert_right(resident, truths["chat"])

    def test_a_merge_that_fails_half_way(
        self, resident: Engine, parents: Parents, truths: dict[str, Truth]
    ) -> None:
        weights = stored(parents, "sea")
        with pytest.raises(CandidateFailed, match="half"):
            resident.load(Stored(Blueprint.of(parents), weights, CandidateFailed("half of it")))
        resident.load(Merge(Materializer(parents), RECIPES["both"]))
        self.assert_right(resident, truths["both"])

    def test_tokens_are_counted(self, resident: Engine, materializer: Materializer) -> None:
        resident.load(Merge(materializer, RECIPES["chat"]))
        requests = self.requests(resident)
        before = resident.tokens
        resident.loglikelihood(requests)
        spent = resident.tokens - before
        each = [len(request.context + request.continuation) for request in requests]
        assert max(each) - 1 <= spent <= sum(each)
        resident.loglikelihood(requests)
        assert resident.tokens - before == 2 * spent
        self._write(resident)
        assert resident.tokens - before > 2 * spent

    def test_what_it_says_of_itself(self, resident: Engine, parents: Parents) -> None:
        torch.device(resident.device)
        assert (resident.module() is not None) == type(resident).HAS_MODULE
        donor = parents.donor.folder
        assert resident.tokenizer.chat_template == Path(donor, "chat_template.jinja").read_text()
        assert resident.max_length == Blueprint.of(parents).config()["max_position_embeddings"]

    def _write(self, engine: Engine) -> list[tuple[str, list[int], bool]]:
        answers = engine.generate(self.prompts(engine), until=[], limit=LIMIT)
        return [(answer.text, list(answer.tokens), answer.truncated) for answer in answers]
