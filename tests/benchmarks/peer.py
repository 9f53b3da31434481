"""Candidates made by mergekit 0.1.5 in process, as its in-memory evolution does: for its interpreter.

    PYTHON peer.py CONFIG.json REPEAT

plans the merge, executes it over the memory-mapped sources and copies each tensor into a resident one,
on one thread. Prints the CPU seconds of each repetition as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner


def candidate(document: dict[str, Any], resident: dict[str, torch.Tensor]) -> float:
    """CPU seconds of one candidate, plan included, into ``resident`` (made at the first)."""
    start = time.process_time()
    options = MergeOptions(quiet=True)
    config = MergeConfiguration.model_validate(document)
    architecture = get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    out = _model_out_config(config, architecture, trust_remote_code=False)
    planner = MergePlanner(config, architecture, options=options, out_model_config=out)
    # plan_in_memory wraps these same tasks in ReturnTensor, which pydantic refuses in 0.1.5
    planner._plan()
    names = {task: weight.name for weight, task in planner._tensors}
    for task, tensor in Executor(list(names)).run(quiet=True):
        if tensor is None:
            continue
        if names[task] not in resident:
            resident[names[task]] = torch.zeros_like(tensor)
        resident[names[task]].copy_(tensor)
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    document = json.loads(Path(sys.argv[1]).read_text())
    resident: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        print(json.dumps([candidate(document, resident) for _ in range(int(sys.argv[2]))]))


if __name__ == "__main__":
    main()
