"""Peak memory of `jam verify`, tower by tower and with the whole fused model in memory; prints both and the ratio.

python benchmarks/verify.py [--hidden-size 1024] [--layers 12] [--dtype float32]
"""

from __future__ import annotations

import argparse
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jam.cli import main as jam
from jam.evaluation import proof
from jam.tutorials import PARENTS

ROWS, CODES = 32_000, 1_024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden-size", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--step", choices=("make", "nothing", "towers", "whole"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "make":
        make(options.folder, options.hidden_size, options.layers)
    elif options.step:
        verify(options.folder / "fused", options.step, options.dtype)
    else:
        measure(options.dtype)


def measure(dtype: str) -> None:
    """Every step in a process of its own, since the peak of a process is never less than that of the one before."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        run("make", folder)
        peaks = {step: float(run(step, folder).split()[0]) for step in ("nothing", "towers", "whole")}
    print(f"fused whole: {peaks['whole']:.2f} GB at most, tower by tower {peaks['towers']:.2f}; in {dtype}")
    more = [peaks[step] - peaks["nothing"] for step in ("towers", "whole")]
    print(f"beyond the {peaks['nothing']:.2f} GB of the libraries: {more[0] / more[1]:.2f} of the memory")


def run(step: str, folder: str) -> str:
    """Run a step; prints and returns its last line."""
    command = [sys.executable, __file__, *sys.argv[1:], "--step", step, "--folder", folder]
    *_, last = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
    print(f"{step}: {last}")
    return last


def make(folder: Path, size: int, layers: int) -> None:
    """Two random parents in shards, and the fused folder."""
    parameters = []
    for role, rows in (("text", ROWS), ("image", ROWS + CODES)):
        torch.manual_seed(role == "image")
        config = LlamaConfig(
            vocab_size=rows,
            hidden_size=size,
            intermediate_size=11 * size // 4,
            num_hidden_layers=layers,
            num_attention_heads=size // 64,
            max_position_embeddings=2048,
        )
        model = LlamaForCausalLM(config)
        parameters.append(model.num_parameters())
        model.save_pretrained(folder / role, max_shard_size="200MB")
        shutil.copytree(PARENTS / "text" / "tokenizer", folder / role / "tokenizer")
    shutil.copytree(PARENTS / "image" / "image_tokenizer", folder / "image" / "image_tokenizer")
    places = [f"--{role}={folder / role}" for role in ("text", "image")]
    assert jam(["fuse", *places, f"--out={folder / 'fused'}", "--every=4"]) == 0
    stored = sum(path.stat().st_size for path in (folder / "fused").glob("*.safetensors"))
    print(
        f"parents of {' and '.join(f'{4 * count / 1e9:.2f}' for count in parameters)} GB, fused {stored / 1e9:.2f} GB"
    )


def verify(folder: Path, step: str, dtype: str) -> None:
    """Prints the peak of memory in GB, and the time."""
    started = time.perf_counter()
    if step == "whole":
        proof.exchange_is_identity = lambda reader: False
    if step != "nothing":
        assert jam(["verify", str(folder), "--device=cpu", f"--dtype={dtype}"]) == 0
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{peak:.2f} GB at most, {seconds:.1f} s")


if __name__ == "__main__":
    main()
