"""`jam prepare` on a folder of documents: counts, speed with 1 and 2 workers, equality after kills, packing waste.

python benchmarks/prepare.py --data DIR --tokenizer DIR --out runs/prepare [--sets captions/emoji ...] [--kills 3]

DIR holds sets, folders with documents (JSON lines) and their pictures; the tokenizer is a byte-level BPE (vocab.json,
merges.txt). The image tokenizer is a random VQ autoencoder of pictures of `--pixels` a side, 1/8 of that in codes.
Every run is the command as a user starts it, imports included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

CODES = 1024
MODEL = r"""
import sys
from pathlib import Path
import torch
from diffusers import VQModel
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast
from jam.checkpoints import Manifest
from jam.vocabulary import Vocabulary

folder, bpe, pixels, codes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
merges = ByteLevelBPETokenizer(str(bpe / "vocab.json"), str(bpe / "merges.txt"))
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=merges._tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
)
tokenizer.save_pretrained(folder / "tokenizer")
torch.manual_seed(0)
VQModel(
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(16, 32, 32, 64), latent_channels=16, num_vq_embeddings=codes, norm_num_groups=8,
    sample_size=pixels, mid_block_add_attention=False,
).save_pretrained(folder / "image_tokenizer")
vocabulary = Vocabulary(len(tokenizer), codes, tokenizer.eos_token_id)
Manifest("fused", method="cross", vocabulary=vocabulary.to_dict(), image_grid=[pixels // 8] * 2).save(folder)
"""
WASTE = r"""
import sys, time
from pathlib import Path
from jam.data import Loader, Objective, Shards, Source, example_length
from jam.data.loader import START
from jam.grammar import Grammar
from jam.api.loading import load_codec

codec = load_codec(Path(sys.argv[1]), "cpu")
shards = Shards(sys.argv[2], codec.vocabulary, codec.fingerprint)
for context in (1024, 2048, 4096):
    loader = Loader([Source(shards, 1.0, context)], codec.grammar, context, 1, Objective(), 0)
    started, used, rows = time.perf_counter(), 0, 0
    for window in range(4):
        for visits in loader._pack(window):
            pieces = [(loader.sources[one.source][one.piece], one.spans) for one in visits]
            used += sum(example_length(encoded, spans, codec.vocabulary, context) for encoded, spans in pieces)
            rows += 1
    planned = used / (time.perf_counter() - started)
    made, count = time.perf_counter(), 0
    batches, _ = loader.micro_batches(START, 64)
    for one in batches:
        count += int((loader.batch(one).documents >= 0).sum())
    rate = count / (time.perf_counter() - made)
    print(
        f"context {context}: {100 * (1 - used / (rows * context)):.2f} % of {rows} packed sequences is padding; "
        f"planned at {planned / 1e3:.0f}k, made at {rate / 1e3:.0f}k tokens/s on one core"
    )
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sets of documents")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with vocab.json and merges.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument("--sets", nargs="+", help="folders below --data; default: all that hold documents")
    parser.add_argument("--pixels", type=int, default=128, help="side of a picture")
    parser.add_argument("--kills", type=int, default=3, help="how often a run is killed before it may end")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True)
    found = [*arguments.data.rglob("documents*.jsonl"), *arguments.data.rglob("documents*.jsonl.gz")]
    sets = arguments.sets or sorted({str(file.parent.relative_to(arguments.data)) for file in found})
    sources = [str(arguments.data / one) for one in sets]
    say(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {', '.join(sets)}")
    python("-c", MODEL, out / "model", arguments.tokenizer, arguments.pixels, CODES)

    seconds, hashes = {}, {}
    for workers in (1, 2):
        folder, started = out / f"workers-{workers}", time.perf_counter()
        prepare(sources, out, folder.name, workers).wait()
        seconds[workers] = time.perf_counter() - started
        hashes[workers] = hash_of(folder)
        summary = json.loads((folder / "shards.json").read_text())
        counts = [f"{summary[key]} {key}" for key in ("documents", "images", "tokens")]
        counts.append(f"{len((folder / 'rejects.jsonl').read_text().splitlines())} rejects")
        rates = [f"{summary[key] / seconds[workers]:.0f} {key}/s" for key in ("documents", "images")]
        say(f"{workers} workers: {', '.join(counts)} in {seconds[workers]:.1f} s ({', '.join(rates)})")
    say(f"2 workers are {seconds[1] / seconds[2]:.2f} times as fast as 1; identical: {hashes[1] == hashes[2]}")

    prepare(sources, out, "again", 2).wait()
    say(f"run twice, identical: {hash_of(out / 'again') == hashes[2]}")

    rng = random.Random(0)
    for _ in range(arguments.kills):
        process = prepare(sources, out, "killed", 2)
        time.sleep(seconds[2] * rng.uniform(0.15, 0.6))
        process.kill()
        process.wait()
        state = out / ".killed.partial" / "state.json"
        say(f"killed behind {json.loads(state.read_text())['seen'] if state.exists() else 0} documents")
    if not (out / "killed").exists():
        prepare(sources, out, "killed", 2).wait()
    say(f"killed {arguments.kills} times and gone on with, identical: {hash_of(out / 'killed') == hashes[1]}")
    python("-c", WASTE, out / "model", out / "workers-1")
    for name in ("workers-2", "again", "killed"):
        shutil.rmtree(out / name)


def say(line: str) -> None:
    print(line, flush=True)


def prepare(sources: list[str], out: Path, name: str, workers: int) -> subprocess.Popen[bytes]:
    options = ["--model", out / "model", "--out", out / name, "--workers", workers, "--device", "cpu"]
    command = [sys.executable, "-c", "import sys; from jam.cli import main; sys.exit(main(sys.argv[1:]))"]
    return subprocess.Popen([*command, "prepare", *sources, *map(str, options)], stdout=subprocess.DEVNULL)


def python(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def hash_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
