"""Shared by all tests: shapes of kernels are checked, a tiny family and a runnable job."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # it ignores Ctrl-C, and so would all that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)
# every process of pytest-xdist has its own, in that of all: they would wait for each other's locks
cache = os.environ.get("HF_DATASETS_CACHE")
if cache is None or "PYTEST_XDIST_WORKER" in os.environ:
    if cache is not None:
        os.makedirs(cache, exist_ok=True)
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="evomerge-tests-", dir=cache)
    atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

# Where shapes are stated: methods, and steps of theirs. Passes are called hundreds of thousands of
# times, and checked by what they give.
METHODS = Path(__file__).parents[1] / "evomerge" / "methods"
STATED = ("geometry", "order", "spectral", "tensorwise")
install_import_hook(
    [f"evomerge.methods.{file.stem}" for file in METHODS.glob("[a-z]*.py")]
    + [f"evomerge.methods.kernel.{name}" for name in STATED],
    "beartype.beartype",
)

import pytest
from hypothesis import settings

from evomerge import config
from evomerge.testing.models import byte_tokenizer, tiny_family

if TYPE_CHECKING:
    from evomerge.engines.huggingface import HuggingFaceEngine
    from evomerge.testing.drivers import Drivers

settings.register_profile("patient", deadline=None)  # no law depends on an idle machine
settings.load_profile("patient")


# what `make quick` leaves out beside the tests marked one by one: files of many seconds
SLOW = (
    *(
        "pool/test_ray",
        "merging/test_disk",
        "merging/test_bytes",
        "methods/test_laws",
        "methods/test_compiler",
    ),
    *(
        "methods/test_conformance",
        "estimators/test_matrix",
        "judging/test_artefact",
        "judging/test_table",
    ),
    *(
        "run/test_",
        "hub/",
        "fuzz/",
        "test_demo",
        "interop/test_mergekit",
        "test_plugin",
        "test_bad_input",
        "test_canaries",
    ),
    *(
        "test_cli",
        "test_add_parent",
        "test_rounds",
        "engines/test_contract",
        "engines/test_spreading",
        "optimizers/test_cma",
        "scorers/test_lm_eval",
        "evolution/test_core",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent.as_posix()
    for item in items:
        if item.path.as_posix().removeprefix(f"{here}/").startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    # files are given to processes in this order: what comes last should be short
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, since a third of all time is spent waiting: for disks, Ray and the dead."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny base and two parents: ``base``, ``chat``, ``sea``. Do not write into them."""
    return tiny_family(tmp_path_factory.mktemp("family"))


TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}="
doc_to_target: label
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def short_tmp() -> Iterator[Path]:
    """A folder whose path leaves room for Ray's sockets; Ray's own files stay when it is killed."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def drivers(short_tmp: Path) -> Iterator[Drivers]:
    """Processes that run commands, one at a time."""
    from evomerge.testing.drivers import Drivers

    made = Drivers(short_tmp)
    yield made
    made.close()


@pytest.fixture(scope="module")
def quiet() -> Iterator[None]:
    """Without what transformers says while models are loaded."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


@pytest.fixture(scope="session")
def write_job(family: dict[str, Path]) -> Callable[..., Path]:
    """Makes a folder with a small, complete run.yaml: an lm-eval task and a text file as fitness.

    ``write_job(folder, seed=3, **{"optimizer": {...}})`` replaces top-level keys.
    """

    def write(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True)
        rows = [
            {"id": f"sum-{a}-{b}", "source": f"sum-{a}-{b}", "question": f"{a}+{b}",
             "choices": [str(a + b), str(a + b + 1), str(a * b + 3)], "label": 0}
            for a in range(6) for b in range(10)
        ]  # fmt: skip
        data = folder / "sums.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "sums.yaml").write_text(TASK.format(file=data), encoding="utf-8")
        texts = [{"text": f"passage {n}: {'lorem ipsum ' * (1 + n % 3)}"} for n in range(30)]
        (folder / "texts.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8"
        )
        content: dict[str, Any] = {
            "models": {
                "base": str(family["base"]),
                "sources": {"chat": str(family["chat"]), "sea": str(family["sea"])},
                "tokenizer": "chat",
            },
            "space": {"methods": ["task_arithmetic", "ties"], "groups": {"layers": 2}},
            "fitness": {
                "include": ["."],
                "objectives": {"sums": {"task": "sums"}, "text": {"text": "texts.jsonl"}},
                "items": {"search": 12, "select": 6, "report": 12, "candidate": 6},
            },
            "optimizer": {"name": "cma", "population": 4},
            "budget": {"evaluations": 22},
            **changes,
        }
        (folder / "run.yaml").write_text(config.dump(content), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def run_folder(write_job: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """The same, in a folder of the test's own: ``run_folder("name", seed=3, ...)``."""
    return lambda name="run", **changes: write_job(tmp_path / name, **changes)


@pytest.fixture
def processes_marked() -> Callable[[str], list[int]]:
    """Processes whose environment holds a mark, wherever they ended up in the process tree."""

    def processes_marked(mark: str) -> list[int]:
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark.encode() in environment.read_bytes():
                    found.append(int(environment.parent.name))
            except OSError:
                continue
        return found

    return processes_marked


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Changes to ``run_folder`` that make a search of a second or two, with every phase in it.

    Samples grow, the score is a mean that is raced over three rounds, and two batches are under way.
    """
    return {
        "space": {"methods": ["task_arithmetic"], "groups": {"layers": 2}, "start": ["uniform"]},
        "fitness": {
            "include": ["."],
            "objectives": {
                "sums": {"task": "sums"},
                "text": {"text": "texts.jsonl", "weight": 0},
            },
            "items": {
                **{"probe": 4, "search": 10, "select": 8, "report": 8, "candidate": [3, 6]},
                "shares": {"probe": 0.15, "search": 0.35, "select": 0.25, "report": 0.25},
            },
        },
        "optimizer": {"name": "cma", "population": 3},
        "budget": {"evaluations": 16},
        "lag": 2,
    }


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def live(model_folder: Path) -> HuggingFaceEngine:
    """An engine with a fresh model per test: tests write into its weights."""
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from evomerge.engines.huggingface import HuggingFaceEngine

    model = LlamaForCausalLM.from_pretrained(model_folder, dtype="float32")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder)
    return HuggingFaceEngine(model, tokenizer, batch_tokens=512)
