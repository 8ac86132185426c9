"""Training throughput against `transformers.Trainer`, and memory of the loss in pieces against the plain one.

    python benchmarks/training.py --data FOLDER [--threads 2] [--documents 160]

The model is a cross model of about 60M parameters, the documents are real ones (captions, how-tos, storybooks), their
pictures 64 random codes each. Every variant sees the same documents once, in a process of its own: ours packed into
sequences; `Trainer` with each document padded to the longest of its batch, in random order and grouped by length; and
both on documents all as long as the context. It prints tokens (no padding) per second, peaks of memory, and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, PreTrainedTokenizerFast, TrainerCallback, TrainingArguments

from jam.codec import Codec, Encoded
from jam.data import PLAIN, ShardWriter, make_example, split
from jam.documents import Document, Image, Message, Part, Text, read_documents
from jam.grammar import Grammar, State
from jam.models import CrossConfig, CrossForCausalLM
from jam.models.scoring import Scores, token_nll
from jam.training import DataSource, TrainConfig, Trainer
from jam.training import trainer as trainer_module
from jam.training.allocator import keep_freed_blocks
from jam.vocabulary import ParentRows, Vocabulary

CODES, GRID, SENTINELS = 1024, (8, 8), 8
SETS = ("captions/emoji", "captions/textbook", "interleaved/howto", "interleaved/storybooks")
VARIANTS = ("ours", "trainer", "trainer-grouped", "ours-full", "trainer-full", "loss-plain", "loss-pieces")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("JAM_DATA"), help="folder of documents; default: $JAM_DATA")
    parser.add_argument("--documents", type=int, default=160, help="of all sets together, after long ones are split")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4, help="sequences of a batch")
    parser.add_argument("--hidden-size", type=int, default=320)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=65_536, help="of the comparison of losses")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="the best of so many counts")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.data:
        raise SystemExit("name the folder of documents: --data FOLDER, or JAM_DATA in the environment")
    if options.variant:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure(options)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}, ", end=""
    )
    print(f"transformers {transformers.__version__}")
    found: dict[str, dict[str, Any]] = {}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
            *_, last = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
            result = json.loads(last)
            if variant not in found or result["tokens_per_second"] > found[variant]["tokens_per_second"]:
                found[variant] = result
    parameters = found["ours"]["parameters"]
    print(f"{parameters / 1e6:.1f}M parameters, {options.documents} documents of {found['trainer']['mean']:.0f} tokens")
    for variant, result in found.items():
        print(
            f"{variant:16} {result['tokens_per_second']:8.0f} tokens/s, {result['padding']:5.1%} padding, "
            f"{result['peak']:.2f} GB at most, {result['more']:.2f} GB more than before the first step"
        )

    def ratio(first: str, second: str, key: str = "tokens_per_second") -> float:
        return found[first][key] / found[second][key]

    print(f"against Trainer, padded:            {ratio('ours', 'trainer'):.2f} times its tokens/s")
    print(f"against Trainer, grouped by length: {ratio('ours', 'trainer-grouped'):.2f}")
    print(f"documents all of full length:       {ratio('ours-full', 'trainer-full'):.2f}")
    print(f"peak memory, packed against padded: {ratio('ours', 'trainer', 'peak'):.2f}")
    print(
        f"loss in pieces against plain, vocabulary {options.vocabulary}: "
        f"{ratio('loss-pieces', 'loss-plain', 'more'):.2f} of the memory beyond the weights, "
        f"{ratio('loss-pieces', 'loss-plain'):.2f} times the tokens/s"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    tokenizer = load_bpe(Path(options.data) / "tokenizer")
    text_size = len(tokenizer)
    if options.variant.startswith("loss"):
        text_size = options.vocabulary - CODES - SENTINELS - 2
    vocabulary = Vocabulary(text_size, CODES, tokenizer.eos_token_id, SENTINELS)
    codec = Codec(vocabulary, Grammar(vocabulary, GRID), tokenizer)
    documents = pieces(Path(options.data), codec, options.context)
    if "full" in options.variant or options.variant.startswith("loss"):
        documents = (document for document in full_length(documents, options.context, vocabulary))
    chosen = list(islice(documents, options.documents))
    model = build(vocabulary, options)
    if options.variant.startswith("trainer"):
        result = run_trainer(model, chosen, options)
    else:
        if options.variant == "loss-plain":
            trainer_module.weighted_loss = plain_loss
        result = run_ours(model, chosen, options)
    lengths = [len(document.ids) - 1 for document in chosen]
    return result | {"parameters": model.num_parameters(), "mean": sum(lengths) / len(lengths), "peak": peak()}


def peak() -> float:
    """Most memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


# --- model and documents ----------------------------------------------------------------------------------------------


def load_bpe(folder: Path) -> PreTrainedTokenizerFast:
    bpe = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="</s>", eos_token="</s>")


def build(vocabulary: Vocabulary, options: argparse.Namespace) -> CrossForCausalLM:
    torch.manual_seed(0)
    shape = {
        "hidden_size": options.hidden_size,
        "intermediate_size": 27 * options.hidden_size // 10,
        "num_hidden_layers": options.layers,
        "num_attention_heads": max(1, options.hidden_size // 64),
        "max_position_embeddings": options.context,
        "tie_word_embeddings": True,
    }
    rows = ParentRows(vocabulary.text_size, vocabulary.image_start)
    config = CrossConfig(
        text_config=LlamaConfig(vocab_size=vocabulary.text_size, **shape),
        image_config=LlamaConfig(vocab_size=vocabulary.control_start, **shape),
        vocabulary=vocabulary.to_dict(),
        image_grid=list(GRID),
        text_rows=asdict(ParentRows(vocabulary.text_size)),
        image_rows=asdict(rows),
        cross_every=2,
    )
    return CrossForCausalLM(config)


def pieces(data: Path, codec: Codec, context: int) -> Iterator[Encoded]:
    """Documents of all sets in turn; what is longer than the context comes in several."""
    rng = np.random.default_rng(0)
    streams = [read_documents(data / name / "documents.jsonl") for name in SETS]
    for group in zip(*streams, strict=False):
        for document in group:
            yield from split(codec.encode(with_codes(document, rng)), context + 1, codec.vocabulary)


def with_codes(document: Document, rng: np.random.Generator) -> Document:
    """The document with random codes for pictures: what they show has no part in what is measured."""

    def changed(parts: list[Part]) -> list[Part]:
        count = GRID[0] * GRID[1]
        return [p if isinstance(p, Text) else Image(codes=rng.integers(0, CODES, count).tolist()) for p in parts]

    if document.messages:
        return Document(messages=[Message(message.role, changed(message.content)) for message in document.messages])
    return Document(content=changed(document.content))


def full_length(documents: Iterator[Encoded], context: int, vocabulary: Vocabulary) -> Iterator[Encoded]:
    """Those that fill a context to a sixteenth, filled up with text."""
    for document in documents:
        missing = context + 1 - len(document.ids)
        if missing <= context // 16:
            ids, start = document.ids, document.main_start
            yield Encoded.of([*ids[:start], *[100] * missing, *ids[start:]], vocabulary, start)


# --- both sides -------------------------------------------------------------------------------------------------------


def settings(options: argparse.Namespace, out: Path) -> TrainConfig:
    return TrainConfig(
        model="",
        out=str(out / "run"),
        sources=[DataSource(str(out / "shards"))],
        epochs=1,
        context=options.context,
        batch_tokens=options.batch * options.context,
        micro_batch_size=options.batch,
        lr=1e-4,
        warmup_steps=0,
        schedule="constant",
        cm3=False,
        unconditional_rate=0.0,
    )


def run_ours(model: CrossForCausalLM, documents: list[Encoded], options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        (out / "shards").mkdir()
        with ShardWriter(out / "shards", model.vocabulary) as writer:
            for document in documents:
                writer.add(document)
        writer.finish()
        keep_freed_blocks()
        trainer = Trainer(model.train(), settings(options, out), lambda *_: None)
        before = peak()
        steps = trainer.steps if not options.variant.startswith("loss") else min(4, trainer.steps)
        reports = [trainer.train_step() for _ in range(steps)]
    timed = reports[1:]
    tokens = sum(report.tokens for report in timed)
    padding = 1 - tokens / (len(timed) * options.batch * options.context)
    rate = tokens / sum(report.seconds for report in timed)
    return {"tokens_per_second": rate, "padding": padding, "more": peak() - before}


def plain_loss(
    model: Any, hidden: Any, targets: Any, states: Any, weights: Any, *_: Any
) -> tuple[torch.Tensor, Scores]:
    """As `weighted_loss`, with all logits of a modality at once."""
    nll = token_nll(model, hidden, targets, states)
    return (nll * weights).sum(), Scores(nll.detach(), torch.zeros_like(targets, dtype=torch.bool))


class Measured(transformers.Trainer):
    """Counts tokens, and computes the loss of our documents from the model's logits."""

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **more: Any) -> Any:
        labels = inputs.pop("labels")
        self.seen[0] += int((inputs.pop("lengths")).sum())
        self.seen[1] += labels.numel()
        logits = model(**inputs).logits
        count = more.get("num_items_in_batch") or (labels >= 0).sum()
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum") / count


class Clock(TrainerCallback):
    """Time and tokens behind the first step."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            self.started, self.before = time.perf_counter(), list(self.seen)
        self.ended = time.perf_counter()


def run_trainer(model: CrossForCausalLM, documents: list[Encoded], options: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    examples = []
    for document in documents:
        example = make_example(document, model.grammar, PLAIN, rng)
        labels = np.where(example.weights > 0, example.targets, -100)
        examples.append({"input_ids": example.inputs, "states": example.states, "labels": labels})
    with tempfile.TemporaryDirectory() as name:
        arguments: dict[str, Any] = {"output_dir": name, "per_device_train_batch_size": options.batch}
        arguments |= {"num_train_epochs": 1, "learning_rate": 1e-4, "lr_scheduler_type": "constant", "use_cpu": True}
        arguments |= {"optim": "adamw_torch_fused", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        arguments |= {"logging_strategy": "no", "remove_unused_columns": False}
        if options.variant == "trainer-grouped":
            arguments["train_sampling_strategy"] = "group_by_length"
        trainer = Measured(
            model=model.train(), args=TrainingArguments(**arguments), train_dataset=examples, data_collator=padded
        )
        trainer.seen = [0, 0]
        clock = Clock(trainer.seen)
        trainer.add_callback(clock)
        before = peak()
        trainer.train()
    tokens, positions = (now - then for now, then in zip(trainer.seen, clock.before, strict=True))
    rate = tokens / (clock.ended - clock.started)
    return {"tokens_per_second": rate, "padding": 1 - tokens / positions, "more": peak() - before}


def padded(examples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Documents padded on the right, where causal attention does not see it."""
    length = max(len(example["input_ids"]) for example in examples)
    batch = {}
    for name, filling in (("input_ids", 0), ("states", int(State.TEXT)), ("labels", -100)):
        rows = [
            np.pad(example[name], (0, length - len(example[name])), constant_values=filling) for example in examples
        ]
        batch[name] = torch.from_numpy(np.stack(rows))
    return batch | {"lengths": torch.tensor([len(example["input_ids"]) for example in examples])}


if __name__ == "__main__":
    main()
