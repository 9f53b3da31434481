"""A second family of real models: the embedded one with noisy parents.

To each tensor of each parent normal noise is added, of as large a norm as the tensor's task vector: so a merge has to tell
signal from noise, as between parents that were trained on much else.

    python -m tests.benchmarks.search.families FOLDER [--seed 0]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from evomerge import config, seeds
from evomerge.checkpoint.reference import locate

ROOT = Path(__file__).parents[3]
PARENTS = ("chat", "sea")


def noisy(folder: Path, seed: int = 0) -> Path:
    """The noisy family of a seed in ``folder``, made unless it is there: its run.yaml."""
    import torch
    from safetensors.torch import load_file, save_file

    run = folder / "run.yaml"
    if run.is_file():
        return run
    base = load_file(locate("embedded:base") / "model.safetensors")
    for name in PARENTS:
        source = locate(f"embedded:{name}")
        shutil.copytree(source, folder / name, dirs_exist_ok=True)
        found = {}
        for key, tensor in load_file(source / "model.safetensors").items():
            delta = tensor.float() - base[key].float()
            drawn = seeds.generator("noisy family", seed, name, key).standard_normal(delta.shape)
            noise = torch.from_numpy(drawn).float()
            noise *= delta.norm() / noise.norm().clamp_min(1e-12)
            found[key] = (tensor.float() + noise).to(tensor.dtype)
        save_file(found, folder / name / "model.safetensors", {"format": "pt"})
    job = config.read(ROOT / "runs" / "demo" / "run.yaml").plain
    job["models"]["sources"] = {name: str((folder / name).resolve()) for name in PARENTS}
    for part in ("space", "fitness"):
        job[part] = str((ROOT / "runs" / "demo" / job[part]).resolve())
    config.write_text(run, config.dump(job))
    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    options = parser.parse_args()
    print(noisy(options.folder, options.seed))


if __name__ == "__main__":
    main()
