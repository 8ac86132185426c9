"""Peak memory and time of `jam verify`, tower by tower and with the whole fused model in memory; prints both and the ratio.

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

from jam.fusion import FuseConfig, fuse
from jam.tutorials import PARENTS

ROWS, CODES = 32_000, 1_024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden-size", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return verify(Path(options.child[0]), options.child[1], options.dtype)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = [save_parent(folder / role, role, options.hidden_size, options.layers) for role in ("text", "image")]
        tokenizer = str(PARENTS / "image" / "image_tokenizer")
        paths = {role: str(folder / role) for role in ("text", "image")} | {"out": str(folder / "fused")}
        plan = fuse(FuseConfig(**paths, image_tokenizer=tokenizer, every=4), (CODES, (8, 8)))
        bytes_each = getattr(torch, options.dtype).itemsize
        print(f"parents {sizes[0] * bytes_each / 1e9:.2f} and {sizes[1] * bytes_each / 1e9:.2f} GB in {options.dtype}, "
              f"fused {plan.parameters * bytes_each / 1e9:.2f} GB")
        peaks = {}
        for way in ("nothing", "towers", "whole"):
            command = [sys.executable, __file__, "--dtype", options.dtype, "--child", str(folder / "fused"), way]
            *_, last = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
            peaks[way], seconds, verdict = float(last.split()[0]), float(last.split()[1]), last.split(maxsplit=2)[2]
            print(f"{way:8} {peaks[way]:.2f} GB at most, {seconds:.1f} s: {verdict}")
        more = [peaks[way] - peaks["nothing"] for way in ("towers", "whole")]
        print(f"beyond what the libraries take, tower by tower needs {more[0] / more[1]:.2f} of the memory of the whole")


def save_parent(folder: Path, role: str, size: int, layers: int) -> int:
    """A random parent in shards; returns its number of parameters."""
    torch.manual_seed(role == "image")
    config = LlamaConfig(
        vocab_size=ROWS + (CODES if role == "image" else 0),
        hidden_size=size,
        intermediate_size=11 * size // 4,
        num_hidden_layers=layers,
        num_attention_heads=size // 64,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="200MB")
    shutil.copytree(PARENTS / "text" / "tokenizer", folder / "tokenizer")
    return model.num_parameters()


def verify(folder: Path, way: str, dtype: str) -> None:
    """In a process of its own: peak memory in GB, seconds and the verdict on the last line."""
    from jam.cli import main as jam
    from jam.evaluation import proof

    started = time.perf_counter()
    if way == "whole":
        proof.exchange_is_identity = lambda reader: False
    status = jam(["verify", str(folder), "--device", "cpu", "--dtype", dtype]) if way != "nothing" else 0
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{peak} {seconds} {'-' if way == 'nothing' else 'exact' if status == 0 else 'not exact'}")


if __name__ == "__main__":
    main()
