"""A real run on real data, from nothing to illustrated stories: image tokenizer, parents, fusion, alignment, tuning.

    python examples/storybooks.py DATA --out DIR [--scale 0.01]

DATA has captions/, interleaved/ and text/ with documents as JSON lines and their pictures beside them. A finished stage
is kept, a training that was stopped goes on: call it again with the same arguments. With `--scale 1` two cores take
about two hours; the curves need matplotlib (`pip install 'jam-fusion[examples]'`). What comes out: ``curves.png``,
``report.json``, and ``page.html`` with stories for titles that no training saw.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jam.api.model import Model
from jam.checkpoints import Manifest, new_folder, write_json
from jam.cli import main as jam
from jam.codec import Codec, load_image_tokenizer
from jam.codec.images import IMAGE_TOKENIZER_FOLDER
from jam.data import open_sources
from jam.data.converters import to_document
from jam.demo.parents import build_text_tokenizer
from jam.documents import Document, Image, Part, Text, read_documents, write_documents
from jam.generation import GenerationSettings
from jam.grammar import Grammar
from jam.models import SingleDecoder
from jam.vocabulary import ParentRows, Vocabulary

CONTEXT, SENTINELS, TEXT_SIZE = 1024, 64, 8192
TOKENIZER_STEPS, TEXT_STEPS, IMAGE_STEPS, ALIGN_STEPS, INSTRUCT_STEPS = 8000, 250, 400, 150, 80
BATCH_TOKENS = 8 * CONTEXT
RECIPES = Path(__file__).parents[1] / "recipes"
ONE_IN = 20  # documents held out
PROMPTS = 6
TOKENIZER_RUN = "tokenizer-run"
ANYWHERE = "/"  # where pictures may lie: the corpora, which are written here, name those of the data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the documents")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on in")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps; 0.01 tries the road")
    arguments = parser.parse_args()
    out, scale = arguments.out, arguments.scale
    out.mkdir(parents=True, exist_ok=True)
    write_corpora(arguments.data.resolve(), out / "documents")
    train_image_tokenizer(arguments.data.resolve(), out, scale)
    make_parents(out)
    plain = {"stage": "parent", "cm3": False, "lr": 2e-3}
    texts = {"texts": 0.7, "story-texts": 0.3}
    train(out, "text", "text", texts, ["story-texts"], scaled(TEXT_STEPS, scale), **plain)
    pictures = {"captions": 0.4, "story-pages": 0.6}
    train(out, "image", "image", pictures, ["story-pages"], scaled(IMAGE_STEPS, scale), **plain)
    if not (out / "fused").exists():
        parents = ("--text", out / "text-run" / "model", "--image", out / "image-run" / "model")
        run("fuse", *parents, "--out", out / "fused", "--every", 2)
    both = ["story-texts", "story-pages"]
    mixture = {"texts": 0.3, "story-texts": 0.1, "captions": 0.2, "story-pages": 0.4}
    align = {"stage": "aligned", "lr": 1e-3, "sentinel_weight": 0.0}
    train(out, "align", "fused", mixture, both, scaled(ALIGN_STEPS, scale), **align)
    mixture = {"stories": 0.8, "howto": 0.1, "captions": 0.1}
    instruct = {"stage": "instructed", "lr": 5e-4, "sentinel_weight": 0.0}
    train(out, "instruct", "align-run/model", mixture, ["stories"], scaled(INSTRUCT_STEPS, scale), **instruct)
    measure(out)


def run(command: str, *arguments: object) -> None:
    """One `jam` command, shown as it would be typed."""
    words = [command, *map(str, arguments)]
    print(f"\n$ jam {shlex.join(words)}", flush=True)
    if status := jam(words):
        raise SystemExit(status)


def write_corpora(data: Path, out: Path) -> None:
    """JSON lines by corpus and split; a book is held out in all corpora, or in none."""
    if out.exists():
        return
    stories = read(data / "interleaved/storybooks")
    corpora = {
        "texts": [*read(data / "text/wikipedia", 6000), *read(data / "text/novels", 1500)],
        "captions": [*read(data / "captions/emoji"), *read(data / "captions/textbook")],
        "stories": stories,
        "howto": read(data / "interleaved/howto"),
        "story-texts": [of_book(story, "text", [Text("\n\n".join(texts_of(story)))]) for story in stories],
        "story-pages": [page for story in stories for page in pages(story)],
    }
    with new_folder(out) as folder:
        for name, documents in corpora.items():
            held = [document for document in documents if is_held_out(document)]
            others = [document for document in documents if not is_held_out(document)]
            random.Random(0).shuffle(others)
            write_documents(folder / f"{name}.jsonl", others)
            write_documents(folder / f"{name}-validation.jsonl", held)
            print(f"{name}: {len(others)} documents, {len(held)} held out")


def read(folder: Path, limit: int | None = None) -> list[Document]:
    records = (record for source in open_sources([folder]) for record in source.read())
    return [to_document(record) for record in islice(records, limit)]


def is_held_out(document: Document) -> bool:
    return random.Random(document.extra["id"].split("#")[0]).randrange(ONE_IN) == 0


def of_book(story: Document, name: object, parts: list[Part]) -> Document:
    return Document(parts, extra={"id": f"{story.extra['id']}#{name}"})


def texts_of(story: Document) -> list[str]:
    return [part.text for part in story.messages[-1].content if isinstance(part, Text)]


def pages(story: Document) -> Iterable[Document]:
    """A page's text and its picture, as a captioned picture."""
    text = None
    for number, part in enumerate(story.messages[-1].content):
        if isinstance(part, Image) and text is not None:
            yield of_book(story, number, [text, part])
        text = part if isinstance(part, Text) else None


def train_image_tokenizer(data: Path, out: Path, scale: float) -> None:
    """The laptop's recipe on all pictures; those of storybooks come twice as often."""
    folder = out / TOKENIZER_RUN
    if (folder / IMAGE_TOKENIZER_FOLDER).exists():
        return
    weights = {"captions/emoji": 1, "captions/textbook": 1, "interleaved/storybooks": 2, "interleaved/textbook": 1}
    sources = json.dumps([{"path": str(data / name), "weight": weight} for name, weight in weights.items()])
    lengths = {"steps": TOKENIZER_STEPS, "warmup-steps": 100, "codebook-from": 500, "validate-every": 500}
    options = [word for name, count in lengths.items() for word in (f"--{name}", scaled(count, scale))]
    recipe = RECIPES / "image-tokenizer-64.yaml"
    run("train-tokenizer", recipe, "--out", folder, "--sources", sources, *options, *resume(folder))


def scaled(count: int, scale: float) -> int:
    return max(2, round(count * scale))


def resume(folder: Path) -> list[str]:
    return ["--resume"] if any(folder.glob("checkpoints/step-*")) else []


def make_parents(out: Path) -> None:
    """Two random Llamas of one shape, and a text tokenizer of the corpora."""
    if (out / "image").exists():
        return
    corpora = [out / "documents" / f"{name}.jsonl" for name in ("texts", "captions", "stories")]
    tokenizer = build_text_tokenizer(
        (text for corpus in corpora for document in read_documents(corpus, ANYWHERE) for text in document.texts),
        TEXT_SIZE,
    )
    size, eos_id = len(tokenizer), tokenizer.eos_token_id
    vocabulary = Vocabulary(size, 0, eos_id, sentinels=0)
    codec = Codec(vocabulary, Grammar(vocabulary), tokenizer)
    save_parent(out / "text", vocabulary, ParentRows(size), codec, out)

    images = load_image_tokenizer(out / TOKENIZER_RUN / IMAGE_TOKENIZER_FOLDER)
    vocabulary = Vocabulary(size, images.info.codebook_size, eos_id, SENTINELS)
    rows = ParentRows(size, vocabulary.image_start, vocabulary.control_start, vocabulary.control_size)
    codec = Codec(vocabulary, Grammar(vocabulary, images.info.grid), tokenizer, images)
    save_parent(out / "image", vocabulary, rows, codec, out / TOKENIZER_RUN)


def save_parent(folder: Path, vocabulary: Vocabulary, rows: ParentRows, codec: Codec, files: Path) -> None:
    """A fresh model folder that `jam train` takes; `files` has the image tokenizer, if there is one."""
    torch.manual_seed(vocabulary.size)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary.size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=vocabulary.eos_id,
            eos_token_id=vocabulary.eos_id,
        )
    )
    print(f"{folder}: {network.num_parameters() / 1e6:.1f}M parameters, {vocabulary.size} ids")
    grid = codec.image_tokenizer.info.grid if codec.image_tokenizer else (0, 0)
    manifest = Manifest("parent", vocabulary=vocabulary.to_dict(), image_grid=list(grid), rows=asdict(rows))
    model = Model(files, SingleDecoder(network, vocabulary, grid, rows), codec, manifest, GenerationSettings())
    with new_folder(folder) as new:
        model.save(new)


def train(
    out: Path, name: str, model: str, corpora: dict[str, float], validation: list[str], steps: int, **recipe: Any
) -> None:
    """Prepare what is missing, and train ``out/model`` on the weighted corpora into ``out/NAME-run``."""
    folder = out / f"{name}-run"
    if (folder / "model").exists():
        return
    for corpus in (*corpora, *(f"{corpus}-validation" for corpus in validation)):
        prepare(out, model, name, corpus)
    settings = {
        "sources": [{"path": str(shards(out, name, corpus)), "weight": weight} for corpus, weight in corpora.items()],
        "validation": [str(shards(out, name, f"{corpus}-validation")) for corpus in validation],
        "steps": steps,
        "warmup_steps": steps // 5,
        "context": CONTEXT,
        "batch_tokens": BATCH_TOKENS,
        "micro_batch_size": 4,
        "optimizer": "muon",
        "min_lr_ratio": 0.05,
        "beta2": 0.98,
        "validation_documents": 100,
        "checkpoint_every": 50,
        "keep_checkpoints": 1,
    } | recipe
    write_json(out / f"{name}.yaml", settings)  # JSON is YAML
    run("train", out / f"{name}.yaml", "--model", out / model, "--out", folder, *resume(folder))


def shards(out: Path, name: str, corpus: str) -> Path:
    """The text parent alone has a vocabulary of its own."""
    return out / "shards" / ("text" if name == "text" else "joint") / corpus


def prepare(out: Path, model: str, name: str, corpus: str) -> None:
    if not (target := shards(out, name, corpus)).exists():
        documents, pictures = out / "documents" / f"{corpus}.jsonl", ("--allowed-media-path", ANYWHERE)
        run("prepare", documents, "--model", out / model, "--out", target, "--workers", 2, *pictures)


def measure(out: Path) -> None:
    """Perplexities of every stage on held-out books, stories for held-out titles, and the learning curves."""
    validation = [out / "documents" / f"{name}-validation.jsonl" for name in ("story-texts", "story-pages")]
    report: dict[str, Any] = {}
    for stage in ("fused", "align-run/model", "instruct-run/model"):
        options = ("--json", out / "perplexity.json", "--allowed-media-path", ANYWHERE)
        run("eval", out / stage, *validation, *options)
        report[stage.split("-")[0]] = json.loads((out / "perplexity.json").read_text())
    metrics = {name: records(out / f"{name}-run") for name in ("tokenizer", "text", "image", "align", "instruct")}
    report["image tokenizer"] = [line for line in metrics["tokenizer"] if "validation_psnr" in line][-1]
    write_json(out / "report.json", report)
    draw_curves(out / "curves.png", metrics)

    stories = read_documents(out / "documents" / "stories-validation.jsonl", ANYWHERE)
    questions = [story.texts[0] for story in stories]
    sampling = ("--temperature", 0.8, "--top-p", 0.9, "--image-temperature", 0.9, "--guidance-scale", 2)
    wanted = ("--min-images", 2, "--max-images", 3, "--max-new-tokens", CONTEXT - 64)
    run(
        "generate", out / "instruct-run" / "model", *questions[:PROMPTS], "--out", out / "page.html", *sampling, *wanted
    )
    print(f"{out}/page.html: {PROMPTS} stories; {out}/curves.png: the learning curves; {out}/report.json: the figures")


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def draw_curves(path: Path, metrics: dict[str, list[dict[str, Any]]]) -> None:
    figure, panels = plt.subplots(1, 5, figsize=(20, 3.6), layout="constrained")
    for panel, (name, lines) in zip(panels, metrics.items(), strict=True):
        if name == "tokenizer":
            draw(panel, lines, "validation_psnr", "PSNR of pictures left out, dB", mean_of=1)
        else:
            draw(panel, lines, "text_loss", "text, nats a token")
            draw(panel, lines, "image_loss", "image, nats a token")
        panel.set_title(
            {"tokenizer": "image tokenizer", "text": "text parent", "image": "image parent"}.get(name, name)
        )
        panel.set_xlabel("step")
        panel.legend()
    figure.savefig(path, dpi=80)


def draw(panel: Any, lines: list[dict[str, Any]], key: str, label: str, mean_of: int = 10) -> None:
    """Means over neighbouring steps; a modality that a stage has not is left out."""
    points = [(line["step"], line[key]) for line in lines if line.get(key)]
    groups = [points[i : i + mean_of] for i in range(0, len(points), mean_of)]
    if groups:
        panel.plot(
            [group[-1][0] for group in groups], [sum(y for _, y in group) / len(group) for group in groups], label=label
        )


if __name__ == "__main__":
    main()
