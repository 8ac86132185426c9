"""Decoding against the memory's bandwidth and `transformers.generate`: seconds a token, what rows and guidance cost.

python benchmarks/decoding.py [--threads 2] [--tokens 48] [--int8] [--compile]
python benchmarks/decoding.py --device cuda --size paper --compile

Random weights, greedy but for the lines "sampled" (top-p 0.9). The floor is the time to read the weights that a token
needs, at the speed of a sum over 1 GB (best of five). `transformers` runs the same models with its static cache: a
Llama, and the cross model through a subclass that shows it as a plain causal model. It and the engine run by turns, the
engine on a copy, whose linear layers it changes.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig, GenerationMixin, LlamaConfig, LlamaForCausalLM, OPTConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from jam.generation import Engine, GenerationSettings
from jam.generation.request import Request
from jam.grammar import State
from jam.models import CrossConfig, CrossForCausalLM, SingleDecoder, compile_layers, quantize
from jam.vocabulary import ParentRows, Vocabulary

PROMPT, SCALE, ROUNDS = 64, 3.0, 3
LARGE = {"hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32}
PLAIN = {"enable_bias": False, "layer_norm_elementwise_affine": False, "max_position_embeddings": 4096}


class Shown(CrossForCausalLM, GenerationMixin):
    """The cross model as `transformers.generate` wants it: all targets in one state, the cache that it gives."""

    state = State.TEXT

    def forward(self, input_ids, past_key_values=None, **_):  # type: ignore[no-untyped-def, override]
        cache = DynamicCache(config=self.config) if past_key_values is None else past_key_values
        start, time = int(cache.get_seq_length()), input_ids.shape[1]
        positions = torch.arange(start, start + time, device=input_ids.device)
        keys = torch.arange(cache.get_mask_sizes(time, 0)[0], device=input_ids.device)
        mask = (keys <= positions[:, None])[None, None].expand(len(input_ids), 1, -1, -1)
        hidden = self.hidden(input_ids, positions[None], mask, cache)[:, -1:]
        logits = self.logits(hidden, torch.full(hidden.shape[:2], self.state.value, device=hidden.device))
        return CausalLMOutputWithPast(logits=logits.clamp(min=-1e9), past_key_values=cache)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48, help="of every measurement")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {versions}, {options.size}, {options.tokens} tokens, best of {ROUNDS}")
    if options.size == "paper":
        measure(paper(options.device), options, theirs=False)
    else:
        for make in (small_cross, small_llama):
            measure(make().to(options.device), options, theirs=True)


CASES: dict[str, dict[str, Any]] = {
    "text": {},
    "text, 16 rows": {"rows": 16},
    "sampled, 1 row": {"top_p": 0.9},
    "sampled, 16 rows": {"rows": 16, "top_p": 0.9},
    "image": {"image": True},
    "guided": {"image": True, "scale": SCALE},
}


def measure(model: Any, options: argparse.Namespace, theirs: bool) -> None:
    """Everything that is said of one model."""
    cross = isinstance(model, CrossForCausalLM)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"\n{type(model).__name__}, {count / 1e6:.0f}M parameters, {next(model.parameters()).dtype}")
    speed = bandwidth(options.device)
    changed = deepcopy(model) if theirs else model
    if options.int8:
        quantize(changed)
    if options.compile:
        compile_layers(changed)
    cases = {what: case for what, case in CASES.items() if cross or not case.get("image")}
    ours: dict[str, float] = {}
    others: dict[str, tuple[float, float]] = {}
    for _ in range(ROUNDS):
        for what, case in cases.items():
            if theirs and not case.keys() & {"rows", "top_p"}:
                first, all_of_it = generate(model, options.tokens, **case)
                least = others.get(what, (first, all_of_it))
                others[what] = min(least[0], first), min(least[1], all_of_it)
            seconds = write(changed, options.tokens, **case)
            ours[what] = min(ours.get(what, seconds), seconds)
    plain = {what: (all_of_it - first) / options.tokens for what, (first, all_of_it) in others.items()}
    speed = max(speed, bandwidth(options.device))
    print(f"memory {speed / 1e9:.1f} GB/s")
    for what, seconds in ours.items():
        floor, other = weights_read(changed, "image" in cases[what]) / speed, plain.get(what)
        line = f"{what:16} ours {1000 * seconds:6.1f} ms, floor {1000 * floor:5.1f}: {floor / seconds:4.0%} of it"
        print(line + (f"; theirs {1000 * other:6.1f} ms: ours {other / seconds:.2f} times as fast" if other else ""))
    print(f"text: {1 / ours['text']:.1f} tokens/s; {16 * ours['text'] / ours['text, 16 rows']:.1f} times with 16 rows")
    if cross:
        tokens = model.grammar.image_tokens
        print(f"a guided picture of {tokens} tokens: {tokens * ours['guided']:.1f} s")
        print(f"guidance costs ours {ours['guided'] / ours['image']:.2f} times of none", end="")
        print(f", theirs {plain['guided'] / plain['image']:.2f} times" if theirs else "")


def bandwidth(device: str) -> float:
    """Bytes per second of the best of five sums over 1 GB."""
    data = torch.ones(250_000_000, device=device)
    return data.nbytes / min(clocked(lambda: data.sum(), device) for _ in range(6))


def clocked(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def weights_read(model: Any, image: bool) -> int:
    """Bytes of the weights that one token needs: all layers, and the head's rows that its mode allows."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    heads = [module.weight for name, module in model.named_modules() if name.endswith("lm_head")]
    apart = {id(weight) for weight in (*tables, *heads)}
    tensors = [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.dtype is torch.int8)]
    layers = sum(tensor.nbytes for tensor in tensors if id(tensor) not in apart)
    vocabulary = model.vocabulary
    rows = vocabulary.image_size if image else vocabulary.text_size
    if getattr(model.config, "readout", None) == "paper":
        rows = vocabulary.size
    return layers + rows * tables[0][0].nbytes


def write(
    model: Any, tokens: int, rows: int = 1, image: bool = False, scale: float = 1.0, top_p: float | None = None
) -> float:
    """Seconds a step of the engine, for `rows` documents; greedy without `top_p`."""
    settings = GenerationSettings(
        temperature=0.0 if top_p is None else 1.0,
        top_p=top_p or 1.0,
        max_images=1 if image else 0,
        guidance_scale=scale,
        max_new_tokens=model.context_length // 2,
    )
    engine = Engine(model, slots=rows * (2 if scale != 1 else 1), length=model.context_length)
    running = [engine.submit(Request(prompt(model, image), settings.for_row(row))) for row in range(rows)]
    while not all(len(row.new_ids) > 3 for row in running):
        engine.step()  # reads the prompt, allocates, compiles
    before = sum(len(row.new_ids) for row in running)
    seconds = clocked(lambda: [engine.step() for _ in range(tokens)], model.device.type)
    assert sum(len(row.new_ids) for row in running) == before + rows * tokens, "a document ended early"
    return seconds / tokens


def generate(model: Any, tokens: int, image: bool = False, scale: float = 1.0) -> tuple[float, float]:
    """Seconds of `transformers.generate` for one token and for `tokens` more."""
    shown = model.model if isinstance(model, SingleDecoder) else model
    if isinstance(model, CrossForCausalLM):
        model.__class__, model.state = Shown, State.IMAGE if image else State.TEXT
        model.generation_config = GenerationConfig()
    ids = torch.tensor([prompt(model, image)], device=model.device)
    choices = {"do_sample": False, "cache_implementation": "static", "pad_token_id": 2, "eos_token_id": None}
    if scale != 1:
        start = [*model.vocabulary.pictures.unconditional, model.vocabulary.break_id]
        choices |= {"guidance_scale": scale, "negative_prompt_ids": torch.tensor([start], device=model.device)}

    def run(count: int) -> float:
        more = {"max_new_tokens": count, "min_new_tokens": count}
        return clocked(lambda: shown.generate(ids, **choices, **more), model.device.type)

    run(2)
    seconds = run(1), run(tokens + 1)
    if isinstance(model, Shown):
        model.__class__ = CrossForCausalLM
    return seconds


def prompt(model: Any, image: bool) -> list[int]:
    ids = [model.vocabulary.eos_id, *range(5, PROMPT + 4)]
    return [*ids, model.vocabulary.break_id] if image else ids


def small_cross() -> CrossForCausalLM:
    """About 350M parameters: two Llamas of 8 layers of 1024, an exchange after every second one."""
    vocabulary = Vocabulary(text_size=16_384, image_size=8_192, eos_id=2)
    rows = ParentRows(16_384, vocabulary.image_start, vocabulary.control_start, vocabulary.control_size)
    return cross(llama(16_384, 8), llama(vocabulary.size, 8), vocabulary, ParentRows(16_384), rows, [16, 16], "exact")


def small_llama() -> SingleDecoder:
    vocabulary = Vocabulary(text_size=16_384, image_size=8_192, eos_id=2)
    rows = ParentRows(16_384, vocabulary.image_start, vocabulary.control_start, vocabulary.control_size)
    torch.manual_seed(0)
    return SingleDecoder(LlamaForCausalLM(llama(vocabulary.size, 24)), vocabulary, [16, 16], rows).eval()


def llama(rows: int, layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=rows,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=layers,
        num_attention_heads=16,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )


def paper(device: str) -> CrossForCausalLM:
    """The paper's: two models of 32 layers of 4096 side by side, 19.6B parameters in bfloat16."""
    vocabulary = Vocabulary(text_size=56_320, image_size=8_192, eos_id=2)
    parent = OPTConfig(vocab_size=56_320 + 8_192, **LARGE, **PLAIN)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            rows = ParentRows(56_320), ParentRows(56_320, 56_320)
            return cross(parent, parent, vocabulary, *rows, [32, 32], "paper")
    finally:
        torch.set_default_dtype(before)


def cross(
    text: Any, image: Any, vocabulary: Vocabulary, text_rows: ParentRows, image_rows: ParentRows, grid: list, how: str
) -> CrossForCausalLM:
    torch.manual_seed(0)
    config = CrossConfig(
        text_config=text,
        image_config=image,
        vocabulary=vocabulary.to_dict(),
        image_grid=grid,
        text_rows=asdict(text_rows),
        image_rows=asdict(image_rows),
        cross_every=2,
        readout=how,
    )
    return CrossForCausalLM(config).eval()


if __name__ == "__main__":
    main()
