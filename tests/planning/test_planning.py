"""`jam plan`: parameters, operations and memory from configs alone, against counts of torch and the paper's sizes."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, LlamaConfig, OPTConfig, PretrainedConfig

from jam.cli import main
from jam.models import CrossConfig, CrossForCausalLM
from jam.planning import GPUS, Gpu, find_gpu, make_plan
from jam.planning.flops import flops_per_token
from jam.planning.network import build, read_config
from jam.planning.plan import USABLE
from jam.training import DataSource, TrainConfig
from support.tiny import CODES, GRID, SENTINELS

MODELS = Path(__file__).parents[2] / "recipes" / "models"
TEXT, TIME = 300, 64
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="PEFT is not installed")


def recipe(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": "",
        "out": "",
        "sources": [DataSource("")],
        "steps": 10,
        "batch_tokens": 4 * TIME,
    }
    return TrainConfig(**(values | {"context": TIME} | changes))


def single() -> LlamaConfig:
    """What uniform and width fusion give, and a parent alone."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return LlamaConfig(vocab_size=TEXT, max_position_embeddings=TIME, **sizes)


def too_small(config: PretrainedConfig, settings: TrainConfig, share: float = 0.1) -> Gpu:
    """A GPU with this share of what the plan needs."""
    needed = make_plan(config, settings, GPUS["l4-24gb"], advise=False).memory.total
    return replace(GPUS["l4-24gb"], memory=share * needed / USABLE / 1e9)


def cross(readout: str = "exact", tie: bool = False) -> CrossConfig:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"max_position_embeddings": TIME, "tie_word_embeddings": tie}
    opt = OPTConfig(vocab_size=TEXT, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0, **sizes)
    llama = LlamaConfig(vocab_size=TEXT + CODES + 2 + SENTINELS, intermediate_size=64, **sizes)
    controls = {"image_start": TEXT, "control_start": TEXT + CODES, "control_size": 2 + SENTINELS}
    return CrossConfig(
        text_config=opt,
        image_config=llama,
        vocabulary={"text_size": TEXT, "image_size": CODES, "eos_id": 0, "sentinels": SENTINELS},
        image_grid=list(GRID),
        text_rows={"text_size": TEXT},
        image_rows={"text_size": TEXT} | controls,
        cross_every=2,
        readout=readout,
    )


@pytest.mark.parametrize(
    ("name", "billions"),
    [("uniform", 6.7), ("width", 26), ("cross-none", 13.2), ("cross-4", 16.4), ("cross-2", 19.6), ("cross-1", 26.1)],
)
def test_the_papers_sizes(name: str, billions: float) -> None:
    """Its tables 1 and 4: 7B, 26B, 13B, 16B, 19B and 26B."""
    with torch.device("meta"):
        network = build(read_config(MODELS / name), recipe())
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize("readout", ["exact", "paper"])
@pytest.mark.parametrize("train", ["all", "cross", pytest.param("lora", marks=needs_peft)])
def test_operations_are_those_that_torch_counts(readout: str, train: str) -> None:
    """Of layers and what lies around them; torch counts attention whole, the plan what a causal mask lets through."""
    changed = recipe(train=train)
    model = build(cross(readout), changed)
    ids = torch.randint(5, TEXT, (1, TIME))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the others are not counted
        hidden = model.hidden(ids, torch.arange(TIME)[None], torch.ones(1, 1, TIME, TIME, dtype=torch.bool))
        hidden.sum().backward()
    found = flops_per_token(model, TIME, 0.5, recompute=False)
    heads = _heads(model, train)
    width = 32 * (2 * 2 + 2 * 1)  # of all heads of all layers and cross blocks
    counted = counter.get_total_flops() / TIME - 12 * width * TIME
    assert found.work - heads - found.attention == pytest.approx(counted)
    assert found.attention == pytest.approx(12 * width * (TIME + 1) / 2)


def _heads(model: CrossForCausalLM, train: str) -> float:
    if model.config.readout == "paper":
        return 6.0 * model.lm_head.weight.numel()  # type: ignore[union-attr]
    rows = [tower.head.weight.numel() for tower in (model.text_tower, model.image_tower)]
    return (6.0 if train == "all" else 4.0) * sum(rows) / 2


def test_memory_is_what_a_step_holds() -> None:
    config, plain = cross(), recipe()
    with torch.device("meta"):
        network = build(config, plain)
    count = sum(parameter.numel() for parameter in network.parameters())
    plan = make_plan(config, plain, GPUS["h100-80gb"])
    assert (plan.memory.weights, plan.memory.gradients, plan.memory.optimizer) == (4 * count, 4 * count, 8 * count)
    assert plan.memory.gathered == 0 and plan.fits and not plan.advice
    frozen = make_plan(config, replace(plain, train="cross"), GPUS["h100-80gb"])
    trained = sum(part.trained for part in frozen.parts)
    assert 0 < trained < count
    assert (frozen.memory.gradients, frozen.memory.optimizer) == (4 * trained, 8 * trained)
    assert {part.name for part in frozen.parts if part.trained} == {"cross blocks", "embeddings and readout"}
    assert frozen.memory.activations < plan.memory.activations
    muon = make_plan(config, replace(plain, optimizer="muon"), GPUS["h100-80gb"])
    assert muon.memory.optimizer < plan.memory.optimizer


def test_activations_by_setting() -> None:
    """A layer keeps what its backward pass reads; recomputed ones keep their inputs only."""
    config = cross()

    def activations(**changes: Any) -> float:
        return make_plan(config, recipe(**changes), GPUS["h100-80gb"], advise=False).memory.activations

    whole, again = activations(), activations(activation_checkpointing=True)
    assert again < 0.6 * whole
    assert activations(micro_batch_size=2, batch_tokens=8 * TIME) == pytest.approx(2 * whole, rel=0.1)


def test_a_single_decoder() -> None:
    config = single()
    plan = make_plan(config, recipe(), GPUS["h100-80gb"])
    assert {part.name for part in plan.parts} == {"decoder", "embeddings and readout"}
    assert plan.fits and plan.memory.activations > 0
    again = make_plan(config, recipe(activation_checkpointing=True), GPUS["h100-80gb"])
    assert again.memory.activations < plan.memory.activations


def shared_ends() -> CrossConfig:
    return cross("paper", tie=True)


@needs_peft
@pytest.mark.parametrize("make", [single, *(pytest.param(one, marks=pytest.mark.slow) for one in (cross, shared_ends))])
def test_adapters(make: Callable[[], PretrainedConfig]) -> None:
    """Adapters are trained, and what they lie beside is not; each keeps what it goes through in the narrow middle."""
    config, plain = make(), recipe(train="lora", lora_rank=2)
    plan = make_plan(config, plain, GPUS["h100-80gb"])
    model = build(config, plain)
    count = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert 0 < trained < count and plan.fits
    memory = plan.memory
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * count, 4 * trained, 8 * trained)
    wider = make_plan(config, replace(plain, lora_rank=8), GPUS["h100-80gb"]).memory
    assert (wider.weights - memory.weights) * 2 == wider.optimizer - memory.optimizer > 0
    assert wider.activations > memory.activations > 0
    again = make_plan(config, replace(plain, activation_checkpointing=True), GPUS["h100-80gb"]).memory
    assert again.activations < memory.activations
    several = make_plan(config, replace(plain, precision="bf16"), GPUS["h100-80gb"], gpus=4).memory
    assert several.weights == memory.weights / 4 and several.optimizer == memory.optimizer / 4


def test_several_gpus_divide_what_one_holds() -> None:
    config = cross()
    one = make_plan(config, recipe(batch_tokens=64 * TIME), GPUS["h100-80gb"], gpus=1)
    eight = make_plan(config, recipe(batch_tokens=64 * TIME), GPUS["h100-80gb"], gpus=8)
    assert eight.memory.weights == one.memory.weights / 8 and eight.memory.optimizer == one.memory.optimizer / 8
    assert eight.memory.gathered > 0
    assert eight.tokens_per_second == pytest.approx(8 * one.tokens_per_second)
    hybrid = recipe(sharding="hybrid", batch_tokens=64 * TIME)
    assert make_plan(config, hybrid, GPUS["h100-80gb"], gpus=16).memory.weights == one.memory.weights / 8


def test_a_run_that_does_not_fit_says_what_would() -> None:
    small = too_small(cross(), recipe(), share=0.9)
    plan = make_plan(cross(), recipe(), small)
    assert not plan.fits
    assert plan.advice[0].startswith("activation_checkpointing true: ")
    count = next(int(line.split()[0]) for line in plan.advice if "of these GPUs" in line)
    assert make_plan(cross(), recipe(batch_tokens=count * TIME), small, gpus=count).fits
    assert plan.advice[-1] == f"{count} of these GPUs, sharding full, batch_tokens {count * TIME}: fits"
    more = make_plan(cross(), recipe(batch_tokens=2 * count * TIME), small)
    assert more.advice[-1] == f"{count} of these GPUs, sharding full: fits"


@pytest.mark.slow
@needs_peft
def test_a_decoder_that_does_not_fit_is_advised_adapters() -> None:
    """As a single decoder has no cross blocks to train alone; each line has what that change needs."""
    plain = recipe(activation_checkpointing=True, batch_tokens=TIME)
    plan = make_plan(single(), plain, too_small(single(), plain, share=0.9))
    lora = make_plan(single(), replace(plain, train="lora"), GPUS["h100-80gb"]).memory.total
    assert plan.advice[0] == f"train lora: {lora / 1e9:.1f} GB, fits"


def test_advice_leaves_out_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of other settings needs no PEFT; only who asks for adapters is told."""
    monkeypatch.setitem(sys.modules, "peft", None)
    plan = make_plan(single(), recipe(), too_small(single(), recipe()))
    assert not plan.fits
    starts = [line.partition(":")[0] for line in plan.advice]
    again = "activation_checkpointing true"
    assert starts[:2] == [again, f"{again}, dtype bfloat16 (weights, gradients and moments rounded)"]
    with pytest.raises(ValueError, match=r"train is lora, which needs PEFT: pip install 'jam-fusion\[lora\]'"):
        make_plan(single(), recipe(train="lora"), GPUS["h100-80gb"])


@pytest.mark.slow
def test_advice_about_gpus_after_a_batch_that_they_could_not_divide() -> None:
    """Two GPUs take two sequences, to the nearest; twice the batch of 96 tokens would be too few for four."""
    odd = recipe(train="cross", activation_checkpointing=True, dtype="bfloat16", batch_tokens=96)
    needed = make_plan(cross(), odd, GPUS["l4-24gb"], gpus=2).memory
    small = replace(GPUS["l4-24gb"], memory=0.999 * needed.total / USABLE / 1e9)
    plan = make_plan(cross(), odd, small, gpus=2)
    assert not plan.fits and plan.advice == [f"3 of these GPUs, sharding full, batch_tokens {3 * TIME}: fits"]
    assert make_plan(cross(), replace(odd, batch_tokens=3 * TIME), small, gpus=3).fits


def test_time_is_work_over_speed() -> None:
    plan = make_plan(cross(), recipe(), GPUS["a100-40gb"], gpus=4, utilisation=0.5)
    assert plan.tokens == 10 * 4 * TIME
    assert plan.tokens_per_second == pytest.approx(4 * 312e12 * 0.5 / plan.flops.work)
    values = plan.to_json()
    assert values["gpu_hours"] == pytest.approx(4 * 24 * values["days"])
    epochs = make_plan(cross(), recipe(steps=None, epochs=3.0), GPUS["a100-40gb"])
    assert epochs.tokens is None and epochs.to_json()["days"] is None


def test_gpus_by_name() -> None:
    assert find_gpu("H100-80GB") is GPUS["h100-80gb"] and find_gpu("rtx 4090") is GPUS["rtx-4090-24gb"]
    assert GPUS["a100-80gb"].tflops == 312
    with pytest.raises(ValueError, match="unknown GPU 'a100'; choose one of a100-40gb, a100-80gb"):
        find_gpu("a100")
    with pytest.raises(ValueError, match="unknown GPU 'h101-80gb'; choose one of h100-80gb"):
        find_gpu("h101-80gb")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cross().save_pretrained(tmp_path / "model")
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "model"), CrossConfig)
    call = ["plan", "--model", str(tmp_path / "model"), "--sources", '[{"path": "shards"}]', "--steps", "20"]
    call += ["--context", str(TIME), "--batch-tokens", "256", "--warmup-steps", "2", "--gpu", "rtx-4090"]
    assert main([*call, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["fits"] and values["tokens"] == 20 * 256 and values["gpu"]["name"] == "rtx-4090-24gb"
    assert main([*call, "--train", "cross", "--mfu", "0.3"]) == 0
    shown = capsys.readouterr().out
    assert "cross blocks" in shown and "30%" in shown and "fits:" in shown


@pytest.mark.slow
def test_the_benchmark_of_layers() -> None:
    """Its step runs, its operations are those of the plan, and what it takes for a GPU fits there."""
    layers = runpy.run_path(str(MODELS.parents[1] / "benchmarks" / "layers.py"))
    settings = layers["recipe"](TIME, 2, True, False)
    found = layers["measure"](2, 64, settings, torch.device("cpu"), steps=1)
    config = layers["model_config"](2, 64, TIME)
    plan = make_plan(config, settings, GPUS["h100-80gb"], image_share=0.0)
    assert found.operations == 2 * TIME * plan.flops.work and found.seconds > 0
    assert found.parameters == sum(part.parameters for part in plan.parts)
    six = make_plan(layers["model_config"](6, 64, TIME), settings, GPUS["h100-80gb"]).memory
    small = replace(GPUS["h100-80gb"], memory=1.01 * (six.total - six.optimizer) / USABLE / 1e9)
    assert layers["most_pairs"](small, 64, settings) == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gpu", "tpu"], "unknown GPU 'tpu'"),
        (["--gpus", "0"], "gpus is 0; it must be 1 or more"),
        (["--gpus-per-node", "0"], "gpus_per_node is 0"),
        (["--tokens", "-2"], "tokens is -2"),
        (["--mfu", "1.5"], "mfu is 1.5"),
        (["--image-share", "2"], "image_share is 2.0"),
        (["--context", "4096"], "the model takes 64 positions"),
        (["--batch-tokens", "1024", "--gpus", "17"], "16 x 1 sequences of 64: too few for 17 processes"),
        (["--batch-tokens", "127", "--micro-batch-size", "2"], "less than a micro-batch of 2 sequences of 64"),
        (["--model", "absent"], "there is no config.json"),
    ],
)
def test_errors(more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cross().save_pretrained(tmp_path / "model")
    call = ["plan", "--model", str(tmp_path / "model"), "--sources", '[{"path": "shards"}]', "--steps", "20"]
    assert main([*call, "--warmup-steps", "2", *more]) == 1
    assert message in capsys.readouterr().err
