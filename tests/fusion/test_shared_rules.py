"""Rules that fusion shares with loading: where a tokenizer lies, and how far new weights spread."""

from __future__ import annotations

from pathlib import Path

import torch

import jam
from jam.codec import load_tokenizer
from jam.fusion.tokenizers import find_tokenizer
from support.fusion_parents import llama_config, opt_config, run, save_pair, tokenizer


def test_a_folder_named_tokenizer_without_tokenizer_files(tmp_path: Path) -> None:
    """Some checkpoints keep their image tokenizer there."""
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vqgan.ckpt").write_bytes(b"")
    found = find_tokenizer(tmp_path)
    assert found is not None and load_tokenizer(tmp_path).get_vocab() == found.get_vocab()


def test_new_weights_spread_as_the_family_says(tmp_path: Path) -> None:
    """A field of another family's name in config.json changes nothing, neither in fusing nor in loading."""
    for name, make, changes in (
        ("opt", opt_config, {"init_std": 0.3, "initializer_range": 7.0}),
        ("llama", llama_config, {"initializer_range": 0.3, "init_std": 7.0}),
    ):
        save_pair(tmp_path / name, make, **changes)
        plan = run(tmp_path / name, every=1)
        assert {t.operation for t in plan.tensors if t.operation.startswith("new: normal")} == {
            "new: normal, standard deviation 0.3"
        }
        joint = jam.load(tmp_path / name / "out", device="cpu").joint
        assert joint.config.fresh_std == 0.3
        torch.manual_seed(0)
        fresh = type(joint)(joint.config)
        assert 0.2 < fresh.to_text[0].state_dict()[next(iter(query_names(fresh)))].std() < 0.4


def query_names(model: torch.nn.Module) -> list[str]:
    return [name for name in model.to_text[0].state_dict() if name.endswith("q_proj.weight")]
