"""Every row of docs/method.md, section 9, by the command line: fused, verified, and made to write a page."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from jam.cli import main
from jam.codec import describe_image_tokenizer
from jam.documents import Document, Text, write_documents
from jam.documents import Image as DocumentImage
from jam.models import CrossForCausalLM
from support import tiny
from support.open_pairs import OPEN_PAIRS

OFTEN = ("unequal shapes", "Qwen2.5, SimpleAR")
PAIRS = pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in OPEN_PAIRS]
)


@pytest.fixture
def begins_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What alignment teaches: in text, `<break>` comes as often as all else together; `</s>` never."""
    plain = CrossForCausalLM.logits

    def logits(self: CrossForCausalLM, hidden: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        made, v = plain(self, hidden, states), self.vocabulary
        allowed = made[..., v.break_id].isfinite()
        made[..., v.break_id] = torch.where(allowed, made[..., : v.text_size].logsumexp(-1), -torch.inf)
        made[..., v.eos_id] -= 1000
        return made

    monkeypatch.setattr(CrossForCausalLM, "logits", logits)


def jam(*words: object) -> int:
    return main([str(word) for word in words])


def fuse(name: str, folder: Path, dtype: torch.dtype) -> Path:
    torch.manual_seed(0)
    OPEN_PAIRS[name][0](folder, dtype)
    assert jam("fuse", "--text", folder / "text", "--image", folder / "image", "--out", folder / "fused") == 0
    return folder / "fused"


def assert_exact(fused: Path, *options: object) -> None:
    """`jam verify` compares text and pictures, and finds no difference."""
    report, documents = fused.parent / "proof.json", fused.parent / "documents.jsonl"
    texts = [Text("draw a red cat beside a tree" * 2), Text("then 2 birds on the roof, and a house below"), Text("end")]
    pictures = [DocumentImage(pixels=tiny.picture(seed, (20, 16))) for seed in range(3)]
    write_documents(documents, [Document([texts[0], pictures[0], texts[1], *pictures[1:], texts[2]]), Document(texts)])
    assert (
        jam("verify", fused, "--device", "cpu", "--documents", documents, "--json", report, "--answer-ids", 4, *options)
        == 0
    )
    proof = json.loads(report.read_text())
    assert (proof["verdict"], proof["max_logit_difference"]) == ("exact", 0), proof
    assert proof["text"]["tokens"] > 100 and proof["image"]["tokens"] >= 12
    assert proof["text"]["changed_tokens"] == proof["image"]["changed_tokens"] == 0
    assert proof["changed_tensors"] == {"text": [], "image": []}


@PAIRS
def test_a_pair_is_fused_and_verified_and_writes_a_page(
    name: str, tmp_path: Path, capsys: Any, begins_pictures: None
) -> None:
    fused = fuse(name, tmp_path, torch.float32)
    assert_exact(fused)
    page = tmp_path / "page.html"
    options = ("--device", "cpu", "--max-images", 2, "--max-new-tokens", 70, "--seed", 1)
    assert jam("generate", fused, "draw a cat", "--out", page, *options) == 0, capsys.readouterr().err
    assert "2 pictures" in capsys.readouterr().err
    info = describe_image_tokenizer(fused / "image_tokenizer")
    assert info.kind == OPEN_PAIRS[name][1]
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    assert len(pictures) == 2 and "draw a cat" in page.read_text()
    for picture in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (info.resolution,) * 2


def test_tensors_that_were_made_are_exact_in_half_precision(tmp_path: Path) -> None:
    """Janus's rows of codes are computed in fp32, and rounded once: the parent is read in the same way."""
    fused = fuse("DeepSeek-LLM, Janus-Pro", tmp_path, torch.bfloat16)
    for dtype in ("bfloat16", "float32"):
        assert_exact(fused, "--dtype", dtype)
