"""Width fusion: the logits of the fused model are those of equations 2 and 3, computed by other means."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    ChameleonForConditionalGeneration,
    GemmaConfig,
    GemmaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jam.fusion import FusionPlan
from jam.vocabulary import ParentRows, Vocabulary
from support.families import SIZES, chameleon, randomised, text_logits
from support.fusion_parents import CODES, PLAIN, TEXT_SIZE, llama_config, opened, opt_config, run, save_pair, tokenizer


def in_joint_order(table: Tensor, rows: ParentRows, vocabulary: Vocabulary) -> Tensor:
    """A parent's table by joint id, the mean of its rows where it has none; one row at a time."""
    own = [table[row] if row >= 0 else None for row in rows.row_of(vocabulary)]
    mean = torch.stack([row for row in own if row is not None]).mean(0)
    return torch.stack([mean if row is None else row for row in own])


class NaiveWidth:
    """Equations 2 and 3 written out with two half streams: no wide matrix is ever built.

    ``project``: each parent's matrix takes its own half of the input as it is, and the other half through W (copy: the
    same) or the average of both parents' W.
    """

    def __init__(self, text: PreTrainedModel, image: PreTrainedModel, plan: FusionPlan, init: str) -> None:
        self.weights = [text.state_dict(), image.state_dict()]
        self.config, self.init, self.vocabulary = text.config, init, plan.vocabulary
        self.rows = [ParentRows(TEXT_SIZE), ParentRows(TEXT_SIZE, TEXT_SIZE)]

    def project(self, name: str, halves: list[Tensor]) -> list[Tensor]:
        results = []
        average = (self.weights[0][f"{name}.weight"] + self.weights[1][f"{name}.weight"]) / 2
        for weights in self.weights:
            own = weights[f"{name}.weight"]
            result = halves[0] @ own.T + halves[1] @ (own if self.init == "copy" else average).T
            results.append(result + weights.get(f"{name}.bias", torch.zeros((), dtype=result.dtype)))
        return results

    def norm(self, name: str, halves: list[Tensor]) -> list[Tensor]:
        whole = torch.cat(halves, -1)
        if self.config.model_type != "opt":
            normal = whole / (whole.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        else:
            normal = (whole - whole.mean(-1, keepdim=True)) / (whole.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        parts = normal.chunk(2, -1)
        if f"{name}.weight" not in self.weights[0]:
            return list(parts)
        shift = 1 if self.config.model_type == "gemma" else 0
        return [
            p * (w[f"{name}.weight"] + shift) + w.get(f"{name}.bias", 0)
            for p, w in zip(parts, self.weights, strict=True)
        ]

    def attend(self, name: str, halves: list[Tensor]) -> list[Tensor]:
        queries, keys, values = (self.project(f"{name}.{kind}_proj", halves) for kind in "qkv")
        heads = self.config.num_attention_heads
        size = queries[0].shape[-1] // heads
        groups = heads // getattr(self.config, "num_key_value_heads", heads)
        time = len(halves[0])
        hidden = torch.full((time, time), -torch.inf, dtype=halves[0].dtype).triu(1)
        results = []
        for weights, q, k, v in zip(self.weights, queries, keys, values, strict=True):
            outputs = []
            for head in range(heads):
                mine, shared = slice(head * size, (head + 1) * size), head // groups * size
                a, b = q[:, mine], k[:, shared : shared + size]
                if f"{name}.q_norm.weight" in weights:  # Chameleon's, of each head
                    a = F.layer_norm(a, (size,)) * weights[f"{name}.q_norm.weight"][head]
                    b = F.layer_norm(b, (size,)) * weights[f"{name}.k_norm.weight"][head // groups]
                    a = a + weights[f"{name}.q_norm.bias"][head]
                    b = b + weights[f"{name}.k_norm.bias"][head // groups]
                a, b = self.turn(a), self.turn(b)
                scores = a @ b.T / math.sqrt(size) + hidden
                outputs.append(scores.softmax(-1) @ v[:, shared : shared + size])
            results.append(torch.cat(outputs, -1))
        return self.project(f"{name}.{'out' if self.config.model_type == 'opt' else 'o'}_proj", results)

    def turn(self, vectors: Tensor) -> Tensor:
        """Rotary positions; OPT has none."""
        if self.config.model_type == "opt":
            return vectors
        half = vectors.shape[-1] // 2
        theta = self.config.rope_parameters["rope_theta"]
        angles = torch.arange(len(vectors))[:, None] * theta ** (-torch.arange(half) / half)
        a, b = vectors[:, :half], vectors[:, half:]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    def gate(self, values: Tensor) -> Tensor:
        return F.gelu(values, approximate="tanh") if self.config.model_type == "gemma" else F.silu(values)

    def logits(self, ids: Tensor) -> Tensor:
        opt = self.config.model_type == "opt"
        base = "model.decoder" if opt else "model"
        tables = zip(self.weights, self.rows, strict=True)
        halves = [in_joint_order(w[f"{base}.embed_tokens.weight"], rows, self.vocabulary)[ids] for w, rows in tables]
        if self.config.model_type == "gemma":
            halves = [half * self.config.hidden_size**0.5 for half in halves]
        if opt:
            positions = torch.arange(len(ids)) + 2
            learned = [w[f"{base}.embed_positions.weight"][positions] for w in self.weights]
            halves = [h + vectors for h, vectors in zip(halves, learned, strict=True)]
        for index in range(self.config.num_hidden_layers):
            layer = f"{base}.layers.{index}"
            before_attention = "self_attn_layer_norm" if opt else "input_layernorm"
            update = self.attend(f"{layer}.self_attn", self.norm(f"{layer}.{before_attention}", halves))
            halves = [h + u for h, u in zip(halves, update, strict=True)]
            normal = self.norm(f"{layer}.{'final_layer_norm' if opt else 'post_attention_layernorm'}", halves)
            if opt:
                inner = [F.relu(x) for x in self.project(f"{layer}.fc1", normal)]
            else:
                gates, ups = (self.project(f"{layer}.mlp.{kind}_proj", normal) for kind in ("gate", "up"))
                inner = [self.gate(gate) * up for gate, up in zip(gates, ups, strict=True)]
            update = self.project(f"{layer}.fc2" if opt else f"{layer}.mlp.down_proj", inner)
            halves = [h + u for h, u in zip(halves, update, strict=True)]
        halves = self.norm(f"{base}.final_layer_norm" if opt else f"{base}.norm", halves)
        heads = [
            in_joint_order(w["lm_head.weight"], r, self.vocabulary)
            for w, r in zip(self.weights, self.rows, strict=True)
        ]
        return halves[0] @ heads[0].T + halves[1] @ heads[1].T


IDS = torch.tensor([2, 5, 7, TEXT_SIZE + CODES, TEXT_SIZE + 3, TEXT_SIZE, TEXT_SIZE + CODES + 4, 11])


@pytest.mark.parametrize("init", ["copy", "average"])
@pytest.mark.parametrize(
    ("make", "changes", "tolerance"),
    # Llama's norms and rotary angles are computed in fp32 whatever the weights are; the formula here is all fp64.
    [
        (opt_config, {}, 1e-12),
        (opt_config, PLAIN, 1e-12),
        (llama_config, {}, 1e-5),
        (llama_config, {"attention_bias": True}, 1e-5),
    ],
)
def test_logits_of_width_are_the_formula(tmp_path: Path, make: Any, changes: Any, tolerance: float, init: str) -> None:
    text, image = save_pair(tmp_path, make, torch.float64, **changes)
    plan = run(tmp_path, method="width", init=init)
    fused = opened(tmp_path / "out", dtype=torch.float64)
    assert type(fused) is type(text)
    assert fused.num_parameters() == plan.parameters
    expected = NaiveWidth(text, image, plan, init).logits(IDS)
    with torch.no_grad():
        got = fused(IDS[None]).logits[0]
    assert expected.abs().max() > 0.3  # something is compared
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


TIED = {"tie_word_embeddings": True}
FAMILIES: dict[str, Any] = {
    "qwen2": lambda sizes: Qwen2ForCausalLM(Qwen2Config(**sizes)),
    "qwen2 tied": lambda sizes: Qwen2ForCausalLM(Qwen2Config(**sizes | TIED)),
    "mistral": lambda sizes: MistralForCausalLM(MistralConfig(**sizes | {"head_dim": 16})),
    "gemma": lambda sizes: GemmaForCausalLM(GemmaConfig(**sizes | {"head_dim": 16, "tie_word_embeddings": False})),
    "gemma tied": lambda sizes: GemmaForCausalLM(GemmaConfig(**sizes | TIED | {"head_dim": 8})),
    "chameleon": lambda sizes: ChameleonForConditionalGeneration(
        chameleon(**sizes | {"vocabulary_map": {"<image>": 3}, "tie_word_embeddings": False})
    ),
}


@pytest.mark.parametrize("init", ["copy", "average"])
@pytest.mark.parametrize("family", FAMILIES)
def test_width_of_other_families_is_the_formula(tmp_path: Path, family: str, init: str) -> None:
    """Biases, grouped keys, tied heads, scaled embeddings, norms around 1 and norms of each head."""
    torch.manual_seed(0)
    parents = []
    for role, rows in (("text", TEXT_SIZE), ("image", TEXT_SIZE + CODES)):
        sizes = SIZES | {"vocab_size": rows, "num_hidden_layers": 2}
        parents.append(randomised(FAMILIES[family](sizes)))
        parents[-1].save_pretrained(tmp_path / role)
        tokenizer().save_pretrained(tmp_path / role)
    plan = run(tmp_path, method="width", init=init)
    fused, info = type(parents[0]).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (fused.get_input_embeddings().weight is fused.get_output_embeddings().weight) == family.endswith("tied")
    expected = NaiveWidth(*parents, plan, init).logits(IDS)
    with torch.no_grad():
        got = text_logits(fused.eval(), IDS[None])[0]
    assert expected.std() > 0.3
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
