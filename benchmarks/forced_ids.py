"""Forwards and seconds per id where the grammar forces ids: rows of codes that end, frames of pictures.

python benchmarks/forced_ids.py [--rows 16] [--threads 2]

The model is a cross model of two small Llamas with random weights and a layout like Emu3's: a picture says its size,
and each row of its 32 codes ends with an id of its own. Every document begins within a picture, each at another
column, so that rows end in different steps. Run it with another commit's package on the path to compare.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

import torch
from transformers import LlamaConfig

from jam.generation import Engine, GenerationSettings, Request
from jam.layout import ImageLayout
from jam.models import CrossConfig, CrossForCausalLM
from jam.vocabulary import ParentRows, Vocabulary

GRID = (32, 32)
BEGIN, OPEN, TIMES, CODES_FOLLOW, ROW_END, LAST_ROW, CLOSE = range(3, 10)
DIGITS = tuple(range(10, 20))
LAYOUT = ImageLayout(
    "emu3-like",
    BEGIN,
    opening=(OPEN, "height", TIMES, "width", CODES_FOLLOW),
    closing=(LAST_ROW, CLOSE),
    row_end=ROW_END,
    numerals=DIGITS,
    decimal=True,
    reserved=(TIMES, CODES_FOLLOW, ROW_END, LAST_ROW, CLOSE),
    unconditional=(BEGIN, *range(30, 46)),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ids", type=int, default=132, help="of every document: four rows of codes")
    parser.add_argument("--hidden-size", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = small_cross(options.hidden_size)
    print(f"{options.rows} rows, {options.ids} ids each, torch {torch.__version__}, {options.threads} threads")
    for scale in (1.0, 3.0):
        measure(model, options.rows, options.ids, scale)


def measure(model: CrossForCausalLM, rows: int, ids: int, scale: float) -> None:
    forwards, plain = 0, model.hidden

    def hidden(*given: torch.Tensor) -> torch.Tensor:
        nonlocal forwards
        forwards += 1
        return plain(*given)

    model.hidden = hidden  # type: ignore[method-assign]
    settings = GenerationSettings(max_new_tokens=1200, temperature=0.0, guidance_scale=scale)
    engine = Engine(model, slots=rows * (1 if scale == 1 else 2), length=1400)
    running = [engine.submit(Request(prompt(model, row), settings.for_row(row))) for row in range(rows)]
    while not all(len(row.new_ids) > 2 for row in running):
        engine.step()
    written, forwards = sum(len(row.new_ids) for row in running), 0
    start, busy = time.perf_counter(), time.process_time()
    while min(len(row.new_ids) for row in running) < ids:
        engine.step()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    written = sum(len(row.new_ids) for row in running) - written
    print(
        f"guidance {scale:g}: {forwards / written * rows:.3f} forwards per id of a document, "
        f"{1000 * seconds / written:.2f} ms per id of all together ({1000 * busy / written:.2f} of processor time), "
        f"{forwards} forwards"
    )
    model.hidden = plain  # type: ignore[method-assign]


def prompt(model: CrossForCausalLM, row: int) -> list[int]:
    """A short text, and a picture whose first row of codes is written as far as the document's number says."""
    start = model.vocabulary.image_start
    return [BEGIN, *range(50, 60), *LAYOUT.write_opening(GRID), *range(start, start + 2 * row % GRID[1])]


def small_cross(hidden_size: int) -> CrossForCausalLM:
    vocabulary = Vocabulary(4096, 8192, eos_id=2, layout=LAYOUT)
    text = llama(4096, hidden_size)
    image = llama(vocabulary.size, hidden_size)
    rows = ParentRows(4096, vocabulary.image_start, vocabulary.control_start, vocabulary.control_size)
    torch.manual_seed(0)
    config = CrossConfig(
        text_config=text,
        image_config=image,
        vocabulary=vocabulary.to_dict(),
        image_grid=list(GRID),
        text_rows=asdict(ParentRows(4096)),
        image_rows=asdict(rows),
        cross_every=2,
        readout="exact",
    )
    return CrossForCausalLM(config).eval()


def llama(rows: int, hidden_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=rows,
        hidden_size=hidden_size,
        intermediate_size=11 * hidden_size // 4,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=1400,
        tie_word_embeddings=True,
    )


if __name__ == "__main__":
    main()
