"""Models that are larger than their device: layers wait in host memory or on disk, and nothing else changes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Emu3ForConditionalGeneration

import jam
from jam.cli import main
from jam.grammar import State
from jam.models import CrossForCausalLM
from jam.models.placement import DISK, spread_layers
from jam.models.towers import Tower
from support.fusion_parents import TEXT_SIZE, llama_config, opt_config, run, save_pair
from support.image_map_pairs import run as run_named
from support.image_map_pairs import save_pair as save_named

ROOM = {"max_position_embeddings": 64}


def logits(model: Any) -> torch.Tensor:
    v = model.joint.vocabulary
    ids = torch.tensor([[v.eos_id, 5, 7, v.break_id, v.image_start, v.image_start + 2]])
    states = torch.tensor([[State.TEXT] * 3 + [State.IMAGE] * 3])
    with torch.no_grad():
        return model.joint.logits(model.joint.hidden(ids), states)


def limited(monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    for module in ("checkpoints.memory", "api.loading", "api.model"):
        monkeypatch.setattr(f"jam.{module}.available_memory", lambda device: int(count))


@pytest.mark.parametrize("make", [opt_config, llama_config])
@pytest.mark.parametrize("method", ["cross", "uniform"])
def test_layers_on_disk_compute_the_same(
    tmp_path: Path, make: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    save_pair(tmp_path, make, **ROOM)
    plan = run(tmp_path, method=method, **{"every": 1} if method == "cross" else {})
    expected = logits(jam.load(tmp_path / "out", device="cpu"))
    limited(monkeypatch, 0.7 * plan.bytes)
    with pytest.raises(ValueError, match=r"out needs .* available on cpu; .*--device-map auto \(to generate and to ev"):
        jam.load(tmp_path / "out", device="cpu")
    model = jam.load(tmp_path / "out", device="cpu", device_map="auto")
    on_disk = [name for name, parameter in model.joint.named_parameters() if parameter.is_meta]
    assert on_disk and all(".layers." in name or name.startswith(("to_text", "to_image")) for name in on_disk)
    assert torch.equal(logits(model), expected)
    monkeypatch.undo()
    page = model.generate("abc", max_new_tokens=20, seed=3)  # with a cache
    assert page.texts == jam.load(tmp_path / "out", device="cpu").generate("abc", max_new_tokens=20, seed=3).texts


def test_a_whole_checkpoint_and_a_map_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    save_named("emu3", tmp_path, tied=False)
    plan = run_named(tmp_path, method="uniform")
    expected = logits(jam.load(tmp_path / "out", device="cpu"))
    with torch.device("meta"):
        places = spread_layers(Emu3ForConditionalGeneration(plan.config), {"cpu": 2**40}, None)
    assert set(places.values()) == {"cpu"}
    places["model.text_model.layers.1"] = DISK
    model = jam.load(tmp_path / "out", device="cpu", device_map=places)
    on_disk = [name for name, parameter in model.joint.named_parameters() if parameter.is_meta]
    assert on_disk and all(".layers.1." in name for name in on_disk)
    assert torch.equal(logits(model), expected)


def test_the_device_is_filled_first() -> None:
    """What is read from outside the layers stays there."""
    with torch.device("meta"):
        tower = Tower(llama_config(TEXT_SIZE, num_hidden_layers=4))
    layer = sum(parameter.nbytes for parameter in tower.layers[0].parameters())
    whole = sum(tensor.nbytes for tensor in (*tower.parameters(), *tower.buffers()))
    places = spread_layers(tower, {"cuda:0": whole - 3 * layer, "cpu": layer}, None)
    assert [places[f"model.model.layers.{index}"] for index in range(4)] == ["cuda:0", "cpu", DISK, DISK]
    others = {name: place for name, place in places.items() if ".layers." not in name}
    assert set(others.values()) == {"cuda:0"}
    assert {"model.model.embed_tokens", "model.model.norm", "model.lm_head"} <= others.keys()
    half = spread_layers(tower, {"cuda:0": whole // 2 + 100}, torch.bfloat16)
    assert DISK not in half.values()
    with pytest.raises(ValueError, match=r"embeddings, heads and norms take .* are left on cuda:0.*--dtype bfloat16"):
        spread_layers(tower, {"cuda:0": 10}, None)


def test_every_part_has_a_place(tmp_path: Path) -> None:
    save_pair(tmp_path, opt_config)
    plan = run(tmp_path, every=1)
    with torch.device("meta"):
        network = CrossForCausalLM(plan.config)
    places = spread_layers(network, {"cpu": 2**40}, None)
    names = [*dict(network.named_parameters()), *dict(network.named_buffers())]
    for name in names:
        assert name in places or any(name.startswith(f"{place}.") for place in places), name


def test_commands_take_it(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    save_pair(tmp_path, llama_config, **ROOM)
    plan = run(tmp_path, every=1)
    limited(monkeypatch, 0.7 * plan.bytes)
    generate = ["generate", str(tmp_path / "out"), "abc", "--device", "cpu", "--max-new-tokens", "4"]
    assert main(generate) == 1 and "--device-map auto" in capsys.readouterr().err
    assert main([*generate, "--device-map", "auto"]) == 0
    assert main([*generate, "--device-map", "autp"]) == 2 and "it must be auto" in capsys.readouterr().err
    (tmp_path / "a.jsonl").write_text('{"id": "a", "content": [{"type": "text", "text": "abc"}]}\n')
    assert (
        main(["eval", str(tmp_path / "out"), str(tmp_path / "a.jsonl"), "--device", "cpu", "--device-map", "auto"]) == 0
    )


def test_without_accelerate_the_line_to_install_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pair(tmp_path, llama_config)
    run(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr("jam.api.loading.find_spec", lambda name: None if name == "accelerate" else real(name))
    with pytest.raises(ValueError, match=r"needs accelerate, .* pip install 'jam-fusion\[offload\]'"):
        jam.load(tmp_path / "out", device="cpu", device_map="auto")
