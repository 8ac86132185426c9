"""Perplexity against a plain computation; retention of parents, exact and after a change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jam.api.loading import load
from jam.documents import Document, Message, Text
from jam.evaluation import compare_with_parents, evaluate
from jam.models import SingleDecoder
from jam.vocabulary import ParentRows
from support import fusion_parents, tiny

CONTEXT = 96


@pytest.mark.parametrize("kind", ["cross", "single"])
def test_perplexity_is_that_of_documents_one_at_a_time(tmp_path: Path, kind: str) -> None:
    """Weights are float64, so what differs is rounding where the models and the loss compute in float32."""
    made = tiny.model(tmp_path / "model", kind, context=CONTEXT)
    joint = made.joint.double().eval()
    rng = np.random.default_rng(3)
    documents = [tiny.random_document(rng) for _ in range(12)]
    assert sum(len(made.codec.encode(document).ids) for document in documents) > 2 * CONTEXT
    seen: list[int] = []
    report = evaluate(joint, made.codec, documents, batch_size=2, on_documents=seen.append)
    assert sum(seen) == 12
    nats = plain_nats(made, documents)
    for modality, values in {**nats, "all": nats["text"] + nats["image"]}.items():
        assert report[f"{modality}_tokens"] == len(values)
        assert report[f"{modality}_ppl"] == pytest.approx(math.exp(sum(values) / len(values)), rel=1e-7)


@torch.no_grad()
def plain_nats(made: Any, documents: list[Document]) -> dict[str, list[float]]:
    """-log p, within the grammar, of every target behind the question; one document a forward."""
    vocabulary = made.codec.vocabulary
    nats: dict[str, list[float]] = {"text": [], "image": []}
    for document in documents:
        encoded = made.codec.encode(document)
        ids = torch.tensor(encoded.ids)
        states = torch.from_numpy(made.codec.grammar.state_array(ids.numpy()))[1:]
        logits = made.joint.logits(made.joint.hidden(ids[None, :-1])[0], states)
        forbidden = ~made.codec.grammar.allowed()[states]
        log_probs = logits.masked_fill(forbidden, -torch.inf).log_softmax(-1)
        for place in range(encoded.main_start, len(ids)):
            token = int(ids[place])
            kind = "image" if vocabulary.is_image(token) else "text"
            nats[kind].append(-float(log_probs[place - 1, token]))
    return nats


def test_a_modality_that_is_absent_has_no_perplexity(tmp_path: Path) -> None:
    made = tiny.model(tmp_path / "model", context=CONTEXT)
    report = evaluate(made.joint, made.codec, [Document(content=[Text("a")])])
    assert report["image_ppl"] is None and report["image_tokens"] == 0
    assert report["text_ppl"] == report["all_ppl"]


def test_a_conversation_without_answer_is_named(tmp_path: Path) -> None:
    made = tiny.model(tmp_path / "model", context=CONTEXT)
    question = Document(messages=[Message("user", [Text("a")])], where="docs.jsonl:7: ")
    with pytest.raises(ValueError, match=r"docs.jsonl:7: the last message"):
        evaluate(made.joint, made.codec, [question])


def fused_and_parents(folder: Path, make: Any, **options: Any) -> tuple[Any, SingleDecoder, SingleDecoder]:
    text, image = fusion_parents.save_pair(folder, make)
    fusion_parents.run(folder, **options)
    fused = load(folder / "out", device="cpu").joint
    size = fusion_parents.TEXT_SIZE
    rows = ParentRows(size), ParentRows(size, size)
    parents = [
        SingleDecoder(model, fused.vocabulary, fusion_parents.GRID, own)
        for model, own in zip((text, image), rows, strict=True)
    ]
    return fused, parents[0], parents[1]


def documents_for(fused: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Texts of the parents' own ids, and captioned pictures, as joint ids."""
    v = fused.vocabulary
    rng = np.random.default_rng(0)
    words = [i for i in range(v.text_size) if i != v.eos_id]
    texts = [[v.eos_id, *rng.choice(words, length).tolist(), v.eos_id] for length in (1, 6, 11)]
    height, width = fusion_parents.GRID
    codes = rng.integers(v.image_start, v.control_start, (2, height * width)).tolist()
    return texts, [[*text[:-1], v.break_id, *picture, v.eos_id] for text, picture in zip(texts, codes, strict=False)]


@pytest.mark.parametrize("make", [fusion_parents.opt_config, fusion_parents.llama_config], ids=["opt", "llama"])
@pytest.mark.parametrize("every", [0, 1])
def test_exact_cross_fusion_loses_nothing(tmp_path: Path, make: Any, every: int) -> None:
    fused, text, image = fused_and_parents(tmp_path, make, every=every, readout="exact")
    texts, pictures = documents_for(fused)
    kept = compare_with_parents(fused, text, image, texts, pictures)
    assert (kept.text_difference, kept.image_difference, kept.max_logit_difference) == (0.0, 0.0, 0.0)
    assert 0 < kept.new_control_probability < 1


@pytest.mark.parametrize("make", [fusion_parents.opt_config, fusion_parents.llama_config], ids=["opt", "llama"])
@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_changed_weight_shows_in_its_own_modality(tmp_path: Path, make: Any, tower: str) -> None:
    fused, text, image = fused_and_parents(tmp_path, make, every=0)
    name, weight = next(
        (name, weight)
        for name, weight in fused.named_parameters()
        if name.startswith(f"{tower}_tower.") and "v_proj.weight" in name
    )
    with torch.no_grad():
        weight[0, 0] += 0.1
    kept = compare_with_parents(fused, text, image, *documents_for(fused))
    assert (kept.text_difference > 0) == (tower == "text"), name
    assert (kept.image_difference > 0) == (tower == "image"), name


def test_the_papers_readout_differs(tmp_path: Path) -> None:
    fused, text, image = fused_and_parents(tmp_path, fusion_parents.opt_config, readout="paper")
    assert compare_with_parents(fused, text, image, *documents_for(fused)).max_logit_difference > 0
