"""The fast step equals the plain forward: kernel, heads, fixed shapes, shared prompts, int8, compiled layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import families
import family_pairs
import joint_models
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jam.generation import decoder as decoder_module
from jam.generation import fixed as fixed_module
from jam.generation.decoder import Decoder
from jam.grammar import State
from jam.models import SingleStream, quantize
from jam.models.streaming import Int8Linear, StreamedLinear, few_rows, linear, load_kernel, stream
from jam.vocabulary import ParentRows, Vocabulary

LENGTH = 20
needs_kernel = pytest.mark.skipif(not load_kernel(), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(linear, "LARGE", 0)
    monkeypatch.setattr(fixed_module, "FEWEST_KEYS", 4)
    torch.manual_seed(0)
    yield


def single(name: str) -> SingleStream:
    model = families.tower_of(families.original(name)).model
    text = families.VOCABULARY if name.startswith("janus") else 40
    vocabulary = Vocabulary(text, families.CODES, eos_id=2, sentinels=4)
    return SingleStream(model, vocabulary, (2, 2), ParentRows(text, text)).eval()


def joint(name: str) -> Any:
    if name in families.CONFIGS:
        return single(name)
    if name in family_pairs.PAIRS:
        return family_pairs.cross_of(*map(families.randomised, family_pairs.PAIRS[name]())).eval()
    family, _, readout = name.partition(" ")
    return joint_models.cross(family, readout=readout or "exact", trained=True)


def log_probs(model: Any, logits: Tensor, states: Tensor) -> Tensor:
    return logits.masked_fill(~model.grammar.allowed()[states], -torch.inf).log_softmax(-1)


def plain(model: Any, ids: Tensor, states: Tensor) -> Tensor:
    with torch.no_grad():
        return log_probs(model, model.logits(model.hidden(ids[None]), states[None])[0].float(), states)


def assert_steps_equal_forward(model: Any, expected: list[Tensor], ids: list[Tensor], states: list[Tensor], fixed: bool):
    """Rows of unequal lengths; some pause, and slots 0 and 4 are nobody's."""
    slots = [3, 1, 2]
    writer = Decoder(model, 5, LENGTH, fixed=fixed)
    read = [9, 4, 2]
    writer.prefill(slots, [row[:count].tolist() for row, count in zip(ids, read, strict=True)])
    for active in ([0, 1, 2], [1, 2], [0], [2], [0, 2], [0, 1, 2], [1]):
        new = [int(ids[row][read[row]]) for row in active]
        following = [states[row][read[row]] for row in active]
        logits = writer.forward([slots[row] for row in active], new, [State(int(state)) for state in following])
        for got, row in zip(log_probs(model, logits, torch.stack(following)), active, strict=True):
            torch.testing.assert_close(got, expected[row][read[row]], atol=1e-4, rtol=0)
            read[row] += 1


NAMES = [*families.CONFIGS, *family_pairs.PAIRS, "opt", "unequal", "llama", "llama paper"]


@needs_kernel
@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_the_plain_forward(name: str) -> None:
    model = joint(name)
    ids = [torch.randint(model.vocabulary.size, (LENGTH,)) for _ in range(3)]
    choices = torch.tensor([State.TEXT, State.IMAGE, State.IMAGE_END])
    states = [choices[torch.randint(3, (LENGTH,))] for _ in range(3)]
    expected = [plain(model, *row) for row in zip(ids, states, strict=True)]
    assert stream(model)
    assert any(isinstance(layer, StreamedLinear) for layer in model.modules())
    for fixed in (False, True):
        assert_steps_equal_forward(model, expected, ids, states, fixed)
