"""A training step of the tiny parents' shape, fp32 against bf16 autocast, on the CPU; prints medians and the ratio.

python benchmarks/precision.py
"""

from __future__ import annotations

import platform
import statistics
import time

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, LENGTH, RUNS = 16, 384, 7


def seconds_of_a_step(autocast: bool) -> list[float]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1010,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(config.vocab_size, (BATCH, LENGTH))
    times = []
    for _ in range(RUNS + 2):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids, use_cache=False).logits
        F.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return times[2:]


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    medians = {}
    for name, autocast in (("fp32", False), ("bf16 autocast", True)):
        times = seconds_of_a_step(autocast)
        medians[name] = statistics.median(times)
        rate = BATCH * LENGTH / medians[name]
        print(f"{name:14} {medians[name]:.3f} s a step ({min(times):.3f} to {max(times):.3f}), {rate:.0f} tokens/s")
    print(f"bf16 autocast takes {medians['bf16 autocast'] / medians['fp32']:.2f} times as long as fp32")


if __name__ == "__main__":
    main()
