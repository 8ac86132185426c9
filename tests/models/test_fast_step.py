"""The fast step equals the plain forward: kernel, heads, fixed shapes, shared prompts, int8, compiled layers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jam.generation import fixed as fixed_module
from jam.generation.model_runner import ModelRunner
from jam.grammar import State
from jam.models import SingleDecoder, compile_layers, quantize
from jam.models.cpu_kernel import (
    Int8Linear,
    KernelLinear,
    few_rows,
    kernel_in_use,
    kernel_layers,
    linear,
    load_kernel,
    product,
    using_kernel,
)
from jam.vocabulary import ParentRows, Vocabulary
from support import families, family_pairs, joint_models, tiny

LENGTH = 20
needs_kernel = pytest.mark.skipif(not load_kernel(), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(linear, "LARGE", 0)
    monkeypatch.setattr(fixed_module, "FEWEST_KEYS", 4)
    torch.manual_seed(0)
    yield


def single(name: str) -> SingleDecoder:
    model = families.tower_of(families.original(name)).model
    text = families.VOCABULARY if name.startswith("janus") else 40
    vocabulary = Vocabulary(text, families.CODES, eos_id=2, sentinels=4)
    return SingleDecoder(model, vocabulary, (2, 2), ParentRows(text, text)).eval()


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


def assert_steps_equal_forward(
    model: Any, expected: list[Tensor], ids: list[Tensor], states: list[Tensor], fixed: bool
):
    """Rows of unequal lengths that read one id or more; some pause, and slots 0 and 4 are nobody's."""
    slots = [3, 1, 2]
    writer = ModelRunner(model, 5, LENGTH, fixed=fixed)
    read = [9, 4, 2]
    writer.prefill(slots, [row[:count].tolist() for row, count in zip(ids, read, strict=True)])
    for active in ({0: 1, 1: 1, 2: 1}, {1: 2, 2: 3}, {0: 1}, {2: 5}, {0: 4, 2: 1}, {0: 1, 1: 1, 2: 1}, {0: 4}, {1: 8}):
        new = [ids[row][read[row] : read[row] + count].tolist() for row, count in active.items()]
        for row, count in active.items():
            read[row] += count
        following = [states[row][read[row] - 1] for row in active]
        logits = writer.forward([slots[row] for row in active], new, [State(int(state)) for state in following])
        for got, row in zip(log_probs(model, logits, torch.stack(following)), active, strict=True):
            torch.testing.assert_close(got, expected[row][read[row] - 1], atol=1e-4, rtol=0)
    assert read[0] == LENGTH  # the last ids of a slot, too


NAMES = [*families.CONFIGS, *family_pairs.PAIRS, "opt", "unequal", "llama", "llama paper"]


@needs_kernel
@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_the_plain_forward(name: str) -> None:
    model = joint(name)
    ids = [torch.randint(model.vocabulary.size, (LENGTH,)) for _ in range(3)]
    choices = torch.tensor([State.TEXT, State.IMAGE, State.IMAGE_END])
    states = [choices[torch.randint(3, (LENGTH,))] for _ in range(3)]
    expected = [plain(model, *row) for row in zip(ids, states, strict=True)]
    assert kernel_layers(model)
    for fixed in (False, True):
        assert_steps_equal_forward(model, expected, ids, states, fixed)


@needs_kernel
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize(("inputs", "outputs"), [(1024, 77), (35, 12), (16, 1), (7, 4000)])
def test_products_of_few_rows(rows: int, inputs: int, outputs: int) -> None:
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    exact = F.linear(x.double(), weight.double(), bias.double())
    product = few_rows(x, weight, bias=bias)
    torch.testing.assert_close(product.double(), exact, atol=1e-4, rtol=1e-5)
    for row in range(rows):  # neighbours don't matter, to the last bit
        assert torch.equal(few_rows(x[row : row + 1], weight, bias=bias)[0], product[row])

    half, coarse, scale = weight.bfloat16(), (40 * weight).to(torch.int8), torch.rand(outputs)
    torch.testing.assert_close(few_rows(x, half), F.linear(x, half.float()), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(few_rows(x.bfloat16(), half), F.linear(x.bfloat16(), half), atol=0.05, rtol=0.02)
    expected = F.linear(x, coarse.float()) * scale
    torch.testing.assert_close(few_rows(x, coarse, scale), expected, atol=0.01, rtol=1e-4)


@needs_kernel
def test_empty_products() -> None:
    with pytest.raises(RuntimeError, match="few_rows: x"):
        few_rows(torch.ones(1, 0), torch.ones(3, 0))
    with torch.no_grad():
        assert torch.equal(product(torch.ones(1, 0), torch.ones(3, 0)), torch.zeros(1, 3))
        assert product(torch.ones(0, 3), torch.ones(2, 3)).shape == (0, 2)


@needs_kernel
def test_threads_do_not_matter() -> None:
    x, weight = torch.randn(3, 1024), torch.randn(1001, 1024)
    one = few_rows(x, weight)
    torch.set_num_threads(2)
    try:
        assert torch.equal(few_rows(x, weight), one)
    finally:
        torch.set_num_threads(1)


@needs_kernel
def test_only_the_rows_that_the_mode_allows_are_read() -> None:
    model = joint("llama")
    text = model.text_tower
    hidden = torch.randn(2, 2 * 32)
    states = torch.tensor([State.TEXT, State.IMAGE])
    with torch.no_grad(), using_kernel(kernel_layers(model)):
        before = model.logits(hidden, states)
        text.head.weight[joint_models.TEXT_ROWS.text_size :] = torch.nan  # nobody's
        assert torch.equal(model.logits(hidden, states), before)
        text.head.weight.fill_(torch.nan)
        assert torch.equal(model.logits(hidden, states)[1], before[1])


@needs_kernel
def test_training_does_not_use_the_kernel() -> None:
    layer = nn.Sequential(nn.Linear(8, 8))
    with using_kernel(kernel_layers(layer)):
        assert type(layer[0]) is KernelLinear
        layer(torch.ones(1, 8)).sum().backward()
    assert layer[0].weight.grad is not None


@needs_kernel
@pytest.mark.parametrize("name", ["llama", "llama paper", "gemma3"])
def test_the_model_is_as_it_was_after_every_step(name: str) -> None:
    """Its classes, and to the last bit what it computes; inside of a step all layers use the kernel."""
    model, seen = joint(name), set()
    classes, ids = [type(module) for module in model.modules()], torch.tensor([[2, 5, 6]])
    expected = plain(model, ids[0], torch.full((3,), State.TEXT.value))
    layer = model.towers[0].layers[0]
    layer.register_forward_hook(lambda *_: seen.update(type(part) for part in layer.modules()))
    writer = ModelRunner(model, 1, LENGTH)
    assert [type(module) for module in model.modules()] == classes and not seen
    writer.prefill([0], [[2, 5]])
    writer.forward([0], [[6]], [State.TEXT])
    assert KernelLinear in seen and nn.Linear not in seen
    assert [type(module) for module in model.modules()] == classes and not kernel_in_use()
    assert torch.equal(plain(model, ids[0], torch.full((3,), State.TEXT.value)), expected)


@needs_kernel
def test_layers_change_back_when_the_last_one_leaves() -> None:
    """Two engines of one model in two threads; also after an error, and for subclasses of linear layers."""
    layer, other = nn.Sequential(nn.Linear(8, 8)), type("Other", (nn.Linear,), {})
    layer.append(other(8, 8))
    with ThreadPoolExecutor(1) as second:
        with pytest.raises(KeyError), using_kernel(kernel_layers(layer)):
            inside = using_kernel(kernel_layers(layer))
            second.submit(inside.__enter__).result()
            raise KeyError
        assert [type(part) for part in layer] == [KernelLinear, KernelLinear]
        assert second.submit(kernel_in_use).result() and not kernel_in_use()
        second.submit(inside.__exit__, None, None, None).result()
    assert [type(part) for part in layer] == [nn.Linear, other]


def test_small_models_and_other_types_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    half = nn.Sequential(nn.Linear(8, 8)).half()
    assert kernel_layers(half) is None
    monkeypatch.setattr(linear, "LARGE", 1 << 20)
    assert kernel_layers(joint("llama")) is None


@pytest.mark.parametrize("fixed", [False, True])
def test_a_shared_prompt_is_computed_once(fixed: bool) -> None:
    model = joint("unequal")
    writer = ModelRunner(model, 3, LENGTH, fixed=fixed)
    prompt = [2, 5, 6, 7, 8, 9]
    writer.prefill([0], [prompt])
    writer.copy(0, 2, 4)
    writer.prefill([2], [prompt[4:]])
    assert writer.lengths == [6, 0, 6]
    first, second = writer.forward([0, 2], [[11], [11]], [State.TEXT] * 2)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_slots_that_pause_are_read_along_for_few_ids_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = joint("llama"), []
    plain = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids, *rest: shapes.append(tuple(ids.shape)) or plain(ids, *rest))
    writer = ModelRunner(model, 5, LENGTH, fixed=False)
    writer.prefill([0, 2, 4], [[2, *range(5, 13)], [2, 7], [2, 5]])
    writer.forward([0, 2, 4], [[8], [8, 9], [8]], [State.TEXT] * 3)
    writer.prefill([1], [[2, 5]])
    writer.forward([0, 4], [[9], [9]], [State.TEXT] * 2)
    assert shapes == [(3, 9), (5, 2), (1, 2), (2, 1)]


def test_neighbours_in_fixed_shapes_are_left_alone() -> None:
    """Slots without an id write behind their end, and one that is full is not read on."""
    model = joint("llama")
    writer = ModelRunner(model, 4, LENGTH, fixed=True)
    writer.prefill([1, 2], [[2, 5, 6], [2] + [7] * (LENGTH - 2)])
    writer.forward([2], [[8]], [State.TEXT])  # full now
    writer.forward([0], [[2]], [State.TEXT])
    got = writer.forward([1], [[9]], [State.TEXT])[0].log_softmax(-1)
    expected = plain(model, torch.tensor([2, 5, 6, 9]), torch.full((4,), State.TEXT.value))[-1]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


HEADS = {"text_tower.model.lm_head", "image_tower.model.lm_head"}
JANUS_HEADS = {"lm_head", "generation_head.proj_out", "generation_head.vision_head"}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("llama", HEADS),
        ("llama paper", {"fuse", "lm_head"}),
        ("gemma3 janus", HEADS | {f"image_tower.model.{head}" for head in JANUS_HEADS}),
        ("janus", {f"tower.model.{head}" for head in JANUS_HEADS}),
    ],
)
def test_int8(name: str, kept: set[str]) -> None:
    model = joint(name)
    before = {name: layer.weight.clone() for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    replaced = quantize(model)
    coarse = {name for name, layer in model.named_modules() if isinstance(layer, Int8Linear)}
    assert before.keys() - coarse == kept and len(coarse) == replaced == len(before) - len(kept)
    for path, layer in model.named_modules():
        if isinstance(layer, Int8Linear):
            error = (layer.weight * layer.scale[:, None] - before[path]).abs()
            assert (error <= layer.scale[:, None] / 2 * 1.01).all()
    ids = [torch.randint(model.vocabulary.size, (LENGTH,)) for _ in range(3)]
    states = [torch.full((LENGTH,), State.TEXT.value)] * 3
    expected = [plain(model, *row) for row in zip(ids, states, strict=True)]
    assert_steps_equal_forward(model, expected, ids, states, fixed=False)


@pytest.mark.parametrize("name", ["opt paper", "llama paper", "llama"])
def test_int8_layers_use_the_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no head is left in another type, since it shares the embedding's rows."""
    model, loads = joint(name), []
    quantize(model)
    monkeypatch.setattr(linear, "load_kernel", lambda: loads.append(name) or True)
    assert kernel_layers(model) is not None and loads


def test_an_int8_model_is_not_saved(tmp_path: Path) -> None:
    model = tiny.model(tmp_path / "model")
    quantize(model.joint)
    with pytest.raises(ValueError, match="without int8"):
        model.save(tmp_path)


@pytest.mark.slow
def test_compiled_layers_share_their_code() -> None:
    torch._dynamo.reset()
    model = joint("llama")
    ids = [torch.randint(model.vocabulary.size, (LENGTH,)) for _ in range(3)]
    states = [torch.full((LENGTH,), State.TEXT.value)] * 3
    expected = [plain(model, *row) for row in zip(ids, states, strict=True)]
    compile_layers(model, backend="eager", fullgraph=True)
    torch._dynamo.utils.counters.clear()
    assert_steps_equal_forward(model, expected, ids, states, fixed=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 12
    torch._dynamo.reset()
