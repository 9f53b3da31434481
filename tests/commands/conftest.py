"""Shared by tests of commands: adapters of a tiny model."""

from __future__ import annotations

import pytest
import torch

from evomerge.testing.models import tiny_family


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base under MIT, and two adapters of it under Apache-2.0."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    base = tiny_family(folder, ("base",), num_hidden_layers=2)["base"]
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    made = {"base": str(base)}
    for seed, name in enumerate("ab"):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            settings = LoraConfig(
                r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
            )
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
        model.save_pretrained(folder / name)
        (folder / name / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: th\n---\n")
        made[name] = f"{base}+{folder / name}"
    return made
