"""Candidates merged and scored by mergekit-evolve 0.1.5, timed: for its interpreter.

    PYTHON evolve.py GENOME.yaml TASKS STORAGE CANDIDATES BATCH_SIZE

runs its command as it stands, on one logical GPU, in its fastest mode without a real one (a pool,
merges on disk). It does not start on a machine without CUDA and vLLM; ``mend`` is the least that
makes it, in the driver and in each worker. Prints a JSON list: seconds of merging and of scoring,
CPU (subprocesses included) and wall, of each candidate.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG = "EVOMERGE_BENCHMARK_LOG"


def mend() -> None:
    """Make mergekit.evo importable and runnable without CUDA and vLLM."""
    import types

    import lm_eval.models
    import torch

    absent = types.ModuleType("lm_eval.models.vllm_causallms")
    absent.VLLM = type("VLLM", (), {})  # type: ignore[attr-defined]
    sys.modules[absent.__name__] = lm_eval.models.vllm_causallms = absent
    torch.cpu.empty_cache = lambda: None


def prepare_worker() -> None:
    """``mend``, score on the CPU, and log what merging and scoring took."""
    import resource
    import time

    mend()
    import torch
    from mergekit.evo import helpers

    torch.set_num_threads(1)

    def now() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = time.process_time() + children.ru_utime + children.ru_stime
        return cpu, time.perf_counter()

    def logged(what: str, work: Callable[..., Any], **more: Any) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            cpu, wall = now()
            result = work(*arguments, **options, **more)
            spent = {"cpu": now()[0] - cpu, "wall": now()[1] - wall}
            with open(os.environ[LOG], "a") as file:
                file.write(json.dumps([what, spent]) + "\n")
            return result

        return run

    def evaluate(*arguments: Any, model_kwargs: dict[str, Any], **options: Any) -> Any:
        return score(*arguments, model_kwargs={**model_kwargs, "device": "cpu"}, **options)

    score = helpers.evaluate_model
    helpers.merge_model = logged("merge", helpers.merge_model)
    helpers.evaluate_model = logged("score", evaluate)


def main() -> None:
    genome, tasks, storage = (str(Path(path).resolve()) for path in sys.argv[1:4])
    candidates, batch_size = sys.argv[4:]
    log = Path(storage) / "log.jsonl"
    os.environ |= {LOG: str(log), "OMP_NUM_THREADS": "1"}
    mend()
    import ray
    from mergekit.scripts import evolve

    ray.init(
        num_cpus=1,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": prepare_worker},
    )
    os.chdir(storage)  # cma writes there
    options = f"--strategy pool --no-merge-cuda --num-gpus 1 --no-save-final-model --max-fevals {candidates}"
    evolve.main.main(
        [
            *(genome, "--storage-path", storage, *options.split()),
            *("--force-population-size", candidates, "--batch-size", batch_size),
            *("--task-search-path", tasks),
        ],
        standalone_mode=False,
    )
    ray.shutdown()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    merges, scores = (
        [spent for done, spent in lines if done == what] for what in ("merge", "score")
    )
    print(json.dumps([{"merge": m, "score": s} for m, s in zip(merges, scores, strict=True)]))


if __name__ == "__main__":
    main()
