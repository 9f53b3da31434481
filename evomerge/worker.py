"""The worker: a job in, an evaluation out.

It keeps everything that does not depend on the candidate: the opened parents, a live model whose
weights each candidate overwrites, and scorers with their requests built and tokenized. A failed
candidate is data; anything else that goes wrong is raised and stops the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.errors import CandidateFailed, CheckpointError, InputError
from evomerge.fitness import Live
from evomerge.fitness import backend as backends
from evomerge.fitness.probe import find_collapse
from evomerge.fitness.suite import bind, build_scorers, evaluate
from evomerge.merging import Materializer, Sources, shared_memory
from evomerge.recipe import Recipe


class Worker:
    """Built once per slot from plain data, called once per job.

    Args:
        argument: ``models`` (name -> portable model text), ``tokenizer`` (one of the names),
            ``dtype`` (of scoring, as torch names it), ``suite`` (``SuiteSpec.plain``), ``backend`` (a
            name), ``batch_tokens`` (or None: the device's default), ``max_length`` (tokens, or None
            for the model's), ``threads`` (of torch), ``device`` (or None: CUDA if there is any),
            ``trust_remote_code`` (for the tokenizer).
    """

    def __init__(self, argument: Mapping[str, Any]) -> None:
        threads = int(argument["threads"])
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import torch

        torch.set_num_threads(threads)
        self._argument = argument
        self._device = argument["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
        models = {
            name: Checkpoint.open(ModelRef(text)) for name, text in argument["models"].items()
        }
        self._sources = Sources(models, argument["tokenizer"])
        self._materializer = Materializer(
            self._sources, device=self._device, threads=threads, memory=shared_memory(threads)
        )
        self._tokenizer = load_tokenizer(
            models[argument["tokenizer"]], argument["trust_remote_code"]
        )
        self._scorers = build_scorers(argument["suite"])
        self._load(argument["dtype"])

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the job's recipe into the live model and score it.

        Args:
            job: ``recipe`` (plain), ``items`` (scorer -> ids), and if need be ``probe`` (the same,
                scored first: a few items that catch a collapsed model before the others are paid
                for) with ``limits`` (see ``probe_limits``), and another ``dtype`` of scoring.

        Returns:
            ``results`` and ``probe`` (scorer -> responses) or None, ``error`` (why it failed) or
            None, and ``seconds`` spent merging and scoring.
        """
        if job.get("dtype", self._dtype) != self._dtype:
            self._load(job["dtype"])
        started = time.perf_counter()
        probe, results, error, merged = None, None, None, started
        try:
            self._merge(Recipe.from_plain(job["recipe"]))
            merged = time.perf_counter()
            if job.get("probe"):
                probe = evaluate(self._scorers, job["probe"])
                if job.get("limits"):
                    error = find_collapse(probe, job["limits"])
            if error is None:
                results = evaluate(self._scorers, job["items"])
        except CandidateFailed as failure:
            error = str(failure)
        seconds = {"merge": merged - started, "score": time.perf_counter() - merged}
        return {"results": results, "probe": probe, "error": error, "seconds": seconds}

    def _load(self, dtype: str) -> None:
        """Put a live model of ``dtype`` in the place of the one there is, and bind the scorers to it."""
        argument = self._argument
        self._model, self._dtype = None, dtype  # never two in memory
        self._model = build_model(self._sources, dtype, self._device)
        backend = backends.get(argument["backend"])(
            self._model,
            self._tokenizer,
            device=self._device,
            batch_tokens=argument["batch_tokens"],
            max_length=argument["max_length"],
        )
        bind(
            self._scorers,
            Live(self._model, self._tokenizer, self._device, backend),
        )

    def _merge(self, recipe: Recipe) -> None:
        """Into the live model; a method without a result for these values fails the candidate."""
        try:
            self._materializer.into(recipe, self._model)
        except CheckpointError:  # a parent can no longer be read
            raise
        except InputError as error:  # weights that sum to 0
            raise CandidateFailed(str(error)) from error


def build_model(sources: Sources, dtype: str, device: str) -> Any:
    """A live causal LM with the merged model's shapes, in eval mode, that generates as the tokenizer's model does.

    It is loaded from that model, whose vocabulary it has; a candidate overwrites every weight.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    donor, content = sources.models[sources.tokenizer], sources.config()
    config = type(AutoConfig.for_model(content["model_type"])).from_dict(content)
    model = AutoModelForCausalLM.from_pretrained(
        donor.folder, config=config, dtype=getattr(torch, dtype)
    )
    if (donor.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(donor.folder)
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(model: Checkpoint, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside ``model``."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.folder, trust_remote_code=trust_remote_code)
