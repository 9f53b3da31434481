"""What a GPU makes of evomerge: one table and one line of verdict, in at most eight minutes.

    make gpu                                                 on a machine with a CUDA GPU
    python tests/benchmarks/gpu.py --device cpu --size toy   the same steps on a CPU, to see that they run

Steps: bytes of merges on the device against the CPU's; bandwidth of ``merge_into`` beside a copy on
the device; scores of token trees against plain rows, and tokens a second of both; NaN; two workers on
one device against one; a search that is killed and resumed. A step that fails is a row that says so,
and the others go on.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

BUDGET = 460  # seconds: a step that would begin later is left out
ULP = 2.0**-8  # relative distance of neighbouring bfloat16 numbers, at most

Rows = Iterator[tuple[str, str, bool]]  # what, figure, whether it is as it should be


def bytes_of_merges(device: str) -> Rows:
    """Every method on one tensor, rounded to bfloat16 as a merge is: equal, or one rounding apart."""
    import torch

    from evomerge import methods

    draw = torch.Generator().manual_seed(0)
    base = torch.randn(768, 512, generator=draw).mul_(0.02).bfloat16()
    steps = [torch.randn(768, 512, generator=draw).mul_(1e-3) for _ in range(3)]
    models = {f"m{n}": (base + step).bfloat16() for n, step in enumerate(steps)}
    equal, near, far = list[str](), list[str](), list[str]()
    for name in methods.names():
        method = methods.get(name)
        few = dict(list(models.items())[: method.max_models or 3])
        needs = base if method.base != "none" else None
        try:
            here = methods.merge_tensors(name, few, base=needs, name="a.weight").bfloat16()
            there = methods.merge_tensors(
                name,
                {model: tensor.to(device) for model, tensor in few.items()},
                base=None if needs is None else needs.to(device),
                name="a.weight",
            )
        except Exception as error:
            far.append(f"{name} ({type(error).__name__})")
            continue
        ours, theirs = here.float(), there.bfloat16().cpu().float()
        apart = (ours - theirs).abs() > ULP * torch.maximum(ours.abs(), theirs.abs())
        kind = equal if torch.equal(ours, theirs) else far if apart.any() else near
        kind.append(name)
    yield "methods with the same bytes as on the CPU", f"{len(equal)}", True
    yield "within one rounding", ", ".join(near) or "none", True
    yield "further apart", ", ".join(far) or "none", not far


def bandwidth(device: str, size: str, folder: Path) -> Rows:
    """Bytes that a second candidate reads and writes, over the time it takes; beside a plain copy."""
    import torch
    from families import make
    from transformers import AutoConfig, AutoModelForCausalLM

    from evomerge.checkpoint import ModelRef
    from evomerge.merging import Materializer, open_parents
    from evomerge.recipe import Body, Recipe, group

    family = make(folder, size)
    refs = {name: ModelRef(str(family / name)) for name in ("a", "b", "c")}

    def recipe(weight: float) -> Recipe:
        body = Body((group("task_arithmetic", tuple(refs), {"weight": weight}),))
        return Recipe(ModelRef(str(family / "base")), refs, body, "bfloat16", tokenizer="base")

    sources = open_parents(recipe(0.3))
    memory = 2**60 if device != "cpu" else 0  # parents stay on the device
    materializer = Materializer(sources, device=device, memory=memory)
    config = AutoConfig.from_pretrained(family / "base")
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    materializer.into(recipe(0.3), model)
    best = min(
        timed(lambda w=weight: materializer.into(recipe(w), model), device)
        for weight in (0.4, 0.5, 0.6)
    )
    room = torch.empty(count // 4, dtype=torch.bfloat16, device=device)
    other = torch.empty_like(room)
    copy = min(timed(lambda: other.copy_(room), device) for _ in range(5))
    ours, theirs = 5 * 2 * count / best / 1e9, 2 * 2 * room.numel() / copy / 1e9
    yield (
        f"merge_into, {count / 1e9:.2f}B parameters, 3 sources",
        f"{best:.3f} s: {ours:.0f} GB/s, a copy {theirs:.0f} GB/s ({theirs / ours:.1f} times)",
        ours > theirs / 10 or device == "cpu",
    )


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds until ``work`` is done on the device."""
    import torch

    synchronize = torch.cuda.synchronize if device != "cpu" else lambda: None
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def scoring(device: str) -> Rows:
    """Nats and tokens a second of an engine beside one plain forward pass a request; NaN."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from evomerge.checkpoint import Checkpoint, ModelRef
    from evomerge.engines import Request
    from evomerge.engines.huggingface import HuggingFaceEngine

    folder = Checkpoint.open(ModelRef("embedded:chat")).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    engine = HuggingFaceEngine(model, tokenizer, device=device)
    draw = torch.Generator().manual_seed(0)
    requests = []
    for _ in range(100):
        context = tuple(torch.randint(5, 200, (60,), generator=draw).tolist())
        requests += [
            Request(context, tuple(torch.randint(5, 200, (6,), generator=draw).tolist()))
            for _ in range(4)
        ]
    engine.loglikelihood(requests)  # plans are made once
    found, plain = list[Any](), list[float]()
    seconds = timed(lambda: found.extend(engine.loglikelihood(requests)), device)

    def rows() -> None:
        with torch.no_grad():
            for request in requests:
                tokens = torch.tensor([request.context + request.continuation], device=device)
                logits = model(input_ids=tokens[:, :-1]).logits[0, len(request.context) - 1 :]
                picked = logits.log_softmax(-1).gather(1, tokens[0, len(request.context) :, None])
                plain.append(float(picked.sum()))

    slow = timed(rows, device)
    apart = max(abs(a.nats - b) for a, b in zip(found, plain, strict=True))
    asked = sum(len(r.context) + len(r.continuation) for r in requests)
    yield "trees against plain rows: largest difference", f"{apart:.1e} nats", apart < 1e-3
    yield (
        "tokens a second",
        f"{asked / seconds:,.0f}, plain rows {asked / slow:,.0f} ({slow / seconds:.1f} times)",
        seconds < slow,
    )
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    nats = [scored.nats for scored in engine.loglikelihood(requests[:8])]
    yield "NaN in the weights", "is NaN in the scores", all(value != value for value in nats)


def searches(device: str, folder: Path) -> Rows:
    """Two workers on one device find what one finds; so does a search that was killed."""
    job = (ROOT / "runs/demo/run.yaml").read_text().replace("evaluations: 240", "evaluations: 40")
    job = job.replace("../../", f"{ROOT}/")
    found = {}
    for name, options in (
        ("one", ["--ray", "off"]),
        ("killed", ["--ray", "off"]),
        ("two", ["--workers", "2", *(["--num-gpus", "0.5"] if device != "cpu" else [])]),
    ):
        run = folder / name
        run.mkdir()
        (run / "run.yaml").write_text(job)
        command = [sys.executable, "-m", "evomerge", "search", str(run), "--quiet", *options]
        if name != "two":
            command += ["--device", device]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        if name == "killed":
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            journal = run / "journal.jsonl"
            while process.poll() is None:
                if journal.is_file() and journal.read_bytes().count(b"\n") > 25:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.05)
            was_killed = process.wait() == -signal.SIGKILL
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        best = run / "best.yaml"
        found[name] = best.read_text() if done.returncode == 0 else done.stderr[-200:]
        same = found[name] == found["one"] and done.returncode == 0
        if name == "one":
            yield "a search by one worker", f"{seconds:.0f} s", done.returncode == 0
        elif name == "two":
            yield "by two workers on one device", f"{seconds:.0f} s, the same winner", same
        else:
            yield "killed and resumed", "the same winner", same and was_killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    parser.add_argument("--size", default="1B", help="shape of the bandwidth step")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("no GPU: torch is not installed")
        return 0
    if options.device != "cpu" and not torch.cuda.is_available():
        print("no GPU")
        return 0
    device, began, rows = options.device, time.perf_counter(), list[tuple[str, str, bool]]()
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        for step, make in (
            ("bytes", lambda: bytes_of_merges(device)),
            ("bandwidth", lambda: bandwidth(device, options.size, folder)),
            ("scoring", lambda: scoring(device)),
            ("searches", lambda: searches(device, folder)),
        ):
            if time.perf_counter() - began > BUDGET:
                rows.append((step, "left out: no time", False))
                continue
            try:
                for row in make():
                    rows.append(row)
            except Exception as error:
                rows.append((step, f"FAILED: {type(error).__name__}: {error}"[:200], False))
    name = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    print(f"\n| {name}, torch {torch.__version__} | figure | |\n| --- | --- | --- |")
    for what, figure, good in rows:
        print(f"| {what} | {figure} | {'ok' if good else 'LOOK'} |")
    bad = [what for what, _, good in rows if not good]
    verdict = "all as it should be" if not bad else f"look at: {', '.join(bad)}"
    print(f"\nverdict: {verdict} ({time.perf_counter() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
