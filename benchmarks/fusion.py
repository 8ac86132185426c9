"""Fuse two random 1.1B-parameter bf16 Llama checkpoints of 5 files each; prints times, ratios and peak memory.

The tables of both parents have one size (32,000 text rows, 8,192 image codes, padding in the text parent), as mergekit
wants them. Three comparisons, each with both sides run in turn on the same files:
- uniform fusion against mergekit's linear merge, with the parents in the file cache;
- the same against a plain read of both parents and a plain write of as many bytes, with nothing in the cache;
- cross fusion against copying both parents' folders.

python benchmarks/fusion.py --work runs/fusion --mergekit runs/mergekit

The folder of --mergekit is a virtual environment; mergekit is installed into it if it is not there. About 20 GB of disk
are used and freed again; `--keep` keeps the parents for the next time. Only the standard library is imported here: the
peak memory of a child would otherwise be that of this process, from which it is forked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

CODES, SHARDS = 8192, 5
PARENTS = r"""
import json, math, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder, codes, shards = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
words = {word: number for number, word in enumerate(["<unk>", "</s>", *(f"w{n}" for n in range(31_998))])}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), unk_token="<unk>", eos_token="</s>"
)
for seed, role in enumerate(("text", "image")):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32_000 + codes, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048, dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    size = sum(parameter.nbytes for parameter in model.parameters())
    model.save_pretrained(folder / role, max_shard_size=math.ceil(size / shards) + 24_000_000)
    tokenizer.save_pretrained(folder / role)
    assert len(list((folder / role).glob("*.safetensors"))) == shards, role
    print(f"{role} parent: {model.num_parameters():,} parameters, {size / 1e9:.2f} GB in {shards} files", flush=True)
tokens = folder / "image" / "image_tokenizer"
tokens.mkdir()
vq = dict(_class_name="VQModel", in_channels=3, sample_size=512, block_out_channels=[64] * 5, num_vq_embeddings=codes)
(tokens / "config.json").write_text(json.dumps(vq))
halves = {f"{half}.weight": torch.zeros(1) for half in ("encoder", "decoder")}
save_file(halves, tokens / "diffusion_pytorch_model.safetensors")
"""
MERGE = """
merge_method: linear
models:
  - model: {text}
    parameters: {{weight: 0.5}}
  - model: {image}
    parameters: {{weight: 0.5}}
dtype: float32
out_dtype: bfloat16
"""
DIFFERENCE = r"""
import json, sys
from pathlib import Path
from safetensors import safe_open

def open_all(folder):
    files = [safe_open(path, "pt") for path in sorted(Path(folder).glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}

ours, theirs = open_all(sys.argv[1]), open_all(sys.argv[2])
assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
greatest = 0.0
for name in ours:
    a, b = ours[name].get_tensor(name), theirs[name].get_tensor(name)
    rows = min(len(a), len(b), 32_000)
    greatest = max(greatest, (a[:rows].float() - b[:rows].float()).abs().max().item())
print(greatest)
"""


class Run(NamedTuple):
    seconds: float
    peak_bytes: int


def run(command: list[str]) -> Run:
    """Run a command to its end. Raises SystemExit with what it printed when it fails."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}:\n{output}")
    return Run(seconds, usage.ru_maxrss * (1 if platform.system() == "Darwin" else 1024))


def files_of(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def read(paths: Iterable[Path]) -> None:
    buffer = memoryview(bytearray(2**24))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def forget(paths: Iterable[Path]) -> None:
    """Take files out of the cache."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write(path: Path, size: int) -> None:
    data = memoryview(os.urandom(2**24))
    with path.open("wb", buffering=0) as file:
        while size > 0:
            size -= file.write(data[:size])


def seconds_of(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def remove(path: Path) -> None:
    """Remove what was written, and leave no writing to do for who comes next."""
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    os.sync()


def median(runs: list[Run]) -> Run:
    return Run(statistics.median(one.seconds for one in runs), max(one.peak_bytes for one in runs))


def report(what: str, runs: list[Run]) -> None:
    times = sorted(one.seconds for one in runs)
    peak = max(one.peak_bytes for one in runs)
    memory = f", peak memory {peak / 1e9:.2f} GB" if peak else ""
    print(f"  {what:42} {statistics.median(times):6.2f} s ({times[0]:.2f} to {times[-1]:.2f}){memory}", flush=True)


def fuse(parents: Path, out: Path, *options: str) -> list[str]:
    folders = ["--text", str(parents / "text"), "--image", str(parents / "image"), "--out", str(out)]
    return [sys.executable, "-m", "jam.cli", "fuse", *folders, *options]


def prepare_mergekit(folder: Path) -> Path:
    """The program `mergekit-yaml` of an environment, made if it is not there."""
    program = folder / "bin" / "mergekit-yaml"
    if not program.is_file():
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        torch = subprocess.check_output([sys.executable, "-c", "import torch; print(torch.__version__)"], text=True)
        run([*pip, f"torch=={torch.strip().partition('+')[0]}"])
        run([*pip, "mergekit"])
    return program


def against_mergekit(parents: Path, work: Path, program: Path, runs: int) -> None:
    print("uniform fusion against mergekit's linear merge, files in the cache")
    config = work / "merge.yaml"
    config.write_text(MERGE.format(text=parents / "text", image=parents / "image"))
    ours: list[Run] = []
    theirs: list[Run] = []
    for number in range(runs):
        for path in (work / "jam", work / "mergekit"):
            remove(path)
        read(files_of(parents))
        ours.append(run(fuse(parents, work / "jam", "--method", "uniform")))
        os.sync()
        if number < max(1, runs // 2):
            read(files_of(parents))
            theirs.append(run([str(program), str(config), str(work / "mergekit")]))
            difference = subprocess.check_output(
                [sys.executable, "-c", DIFFERENCE, str(work / "jam"), str(work / "mergekit")], text=True
            )
            print(f"  greatest difference of the tensors (text rows of tables): {difference.strip()}")
    report("jam fuse --method uniform", ours)
    report("mergekit-yaml", theirs)
    print(f"  mergekit takes {median(theirs).seconds / median(ours).seconds:.1f} times as long")
    for path in (work / "jam", work / "mergekit"):
        remove(path)


def against_disk(parents: Path, work: Path, runs: int) -> None:
    print("uniform fusion against a plain read of both parents and the write, nothing in the cache")
    weights = [path for path in files_of(parents) if path.suffix == ".safetensors"]
    ours: list[Run] = []
    plain: list[Run] = []
    for _ in range(runs):
        remove(work / "jam")
        forget(files_of(parents))
        ours.append(run(fuse(parents, work / "jam", "--method", "uniform")))
        size = sum(path.stat().st_size for path in files_of(work / "jam"))
        remove(work / "jam")
        forget(files_of(parents))
        reading = seconds_of(lambda: read(weights))
        writing = seconds_of(lambda size=size: write(work / "plain", size))  # type: ignore[misc]
        remove(work / "plain")
        plain.append(Run(reading + writing, 0))
        print(f"  read {reading:.2f} s, write {writing:.2f} s, fusion {ours[-1].seconds:.2f} s", flush=True)
    report("jam fuse --method uniform", ours)
    report("read, then write", plain)
    print(f"  fusion takes {median(ours).seconds / median(plain).seconds:.2f} times as long")


def against_copy(parents: Path, work: Path, runs: int) -> None:
    print("cross fusion against copying both parents, files in the cache")
    copied: list[Run] = []
    fused: dict[str, list[Run]] = {"0": [], "2": []}
    for _ in range(runs):
        read(files_of(parents))
        copied.append(Run(seconds_of(lambda: shutil.copytree(parents, work / "copy")), 0))
        remove(work / "copy")
        for every, ours in fused.items():
            read(files_of(parents))
            ours.append(run(fuse(parents, work / "jam", "--every", every)))
            size = sum(path.stat().st_size for path in files_of(work / "jam"))
            remove(work / "jam")
            print(f"  --every {every}: {size / 1e9:.2f} GB in {ours[-1].seconds:.2f} s", flush=True)
    report("copy", copied)
    for every, ours in fused.items():
        report(f"jam fuse --every {every}", ours)
        print(f"  it takes {median(ours).seconds / median(copied).seconds:.2f} times as long as copying the parents")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/fusion"), help="folder for parents and results")
    parser.add_argument("--mergekit", type=Path, help="environment of mergekit; without it that comparison is left out")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side (mergekit: half as many)")
    parser.add_argument("--keep", action="store_true", help="keep the parents")
    options = parser.parse_args()
    work, parents = options.work, options.work / "parents"
    work.mkdir(parents=True, exist_ok=True)
    if not (parents / "image" / "image_tokenizer" / "config.json").is_file():
        shutil.rmtree(parents, ignore_errors=True)
        subprocess.run([sys.executable, "-c", PARENTS, str(parents), str(CODES), str(SHARDS)], check=True)
    sizes = {path.name: sum(file.stat().st_size for file in files_of(path)) for path in sorted(parents.iterdir())}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, parents {json.dumps(sizes)}")
    if options.mergekit:
        against_mergekit(parents, work, prepare_mergekit(options.mergekit), options.runs)
    against_disk(parents, work, options.runs)
    against_copy(parents, work, options.runs)
    if not options.keep:
        shutil.rmtree(parents)


if __name__ == "__main__":
    main()
