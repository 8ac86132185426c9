"""Towers, the cross model and single streams: exactness against the parents' own classes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    OPTConfig,
    PreTrainedModel,
)

from jam.grammar import IMAGE_STATES, State
from jam.models import CrossConfig, CrossForCausalLM, SingleDecoder, Tower
from jam.models.cross import target_states
from jam.models.rows import missing_controls, spread
from jam.vocabulary import ParentRows, Vocabulary
from support.joint_models import (
    DOCUMENT,
    IMAGE_ROWS,
    IMAGE_SIZE,
    PAIRS,
    PARENTS,
    S0,
    TEXT_DOCUMENT,
    TEXT_ROWS,
    TEXT_SIZE,
    VOCABULARY,
    B,
    config_of,
    cross,
    joint_to_image_parent,
    opt,
    pair,
    randomised,
    with_parents,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# Towers


@pytest.mark.parametrize("name", PARENTS)
def test_tower_equals_the_original_class(name: str) -> None:
    parent = PARENTS[name](TEXT_SIZE)
    ids = torch.randint(TEXT_SIZE, (3, 17))
    tower = Tower(parent)
    with torch.no_grad():
        expected = parent(ids).logits
        hidden = tower(tower.embedding(ids), torch.arange(17)[None])
        assert (tower.head(hidden) - expected).abs().max() == 0


def test_tower_of_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'gpt2'; there are towers for: chameleon, .*llama, .*opt"):
        Tower(GPT2Config(n_layer=1))


def test_tower_refuses_attention_that_cannot_take_our_masks() -> None:
    config = OPTConfig(
        vocab_size=8, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2, attn_implementation="eager"
    )
    with pytest.raises(ValueError, match=r"'eager' is not supported.*attn_implementation='sdpa'"):
        Tower(config)


# The cross model at step 0


def assert_exact(model: CrossForCausalLM, text: PreTrainedModel, image: PreTrainedModel) -> None:
    """Every logit on the parents' own rows equals the parent's, in text alone and in a mixed document."""
    ids = torch.tensor([TEXT_DOCUMENT])
    with torch.no_grad():
        logits = model(ids).logits
        assert (logits[..., :TEXT_SIZE] - text(ids).logits).abs().max() == 0
        ids = torch.tensor([DOCUMENT])
        states = target_states(model.grammar, ids)
        at_image = IMAGE_STATES[states[0]]
        codes = slice(VOCABULARY.image_start, VOCABULARY.control_start)
        expected = image(joint_to_image_parent(DOCUMENT)).logits[:, :, 41:57]
        mixed = model(ids).logits[..., codes]
        assert at_image.sum() == 8 and (mixed[:, at_image] - expected[:, at_image]).abs().max() == 0
        assert mixed[:, ~at_image].isneginf().all()
        everywhere = model.logits(model.hidden(ids), torch.full_like(states, State.IMAGE))[..., codes]
        assert (everywhere - expected).abs().max() == 0


@pytest.mark.parametrize("every", [1, 2, 4, 0])
@pytest.mark.parametrize("name", PAIRS)
def test_step_0_equals_the_parents(name: str, every: int, tmp_path: Path) -> None:
    model, text, image = with_parents(name, every)
    assert_exact(model, text, image)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, CrossForCausalLM)
    assert_exact(loaded, text, image)


def test_step_0_is_no_accident() -> None:
    model, text, _ = with_parents("opt")
    randomised(model.to_text)  # type: ignore[arg-type]
    ids = torch.tensor([TEXT_DOCUMENT])
    with torch.no_grad():
        assert (model(ids).logits[..., :TEXT_SIZE] - text(ids).logits).abs().max() > 1e-2


def test_exchange_happens_after_layers_0_k_2k() -> None:
    expected = {1: [0, 1, 2], 2: [0, 2], 4: [0], 0: []}
    for every, layers in expected.items():
        config = cross(every=every).config
        assert config.exchanges == layers
        assert config.get_text_config() is config
        assert config.num_hidden_layers == 6 + 2 * len(layers)
    assert cross("unequal", every=1).config.exchanges == [0, 1]  # as long as both towers have layers


def test_exchange_reads_the_states_before_it() -> None:
    model = cross("opt", every=4, trained=True)
    seen: dict[str, tuple[Tensor, ...]] = {}
    for name in ("to_text", "to_image"):
        block = getattr(model, name)[0]
        block.register_forward_hook(lambda _, inputs, output, name=name: seen.__setitem__(name, (*inputs[:2], output)))
    with torch.no_grad():
        model(torch.tensor([DOCUMENT]))
    assert torch.equal(seen["to_text"][0], seen["to_image"][1])
    assert torch.equal(seen["to_text"][1], seen["to_image"][0])
    assert not torch.equal(seen["to_text"][0], seen["to_text"][2])


def test_parameters_of_a_cross_block_are_12_d_squared() -> None:
    block = cross("opt").to_text[0]
    assert sum(parameter.numel() for parameter in block.parameters()) == 12 * 32**2


# Construction, saving, loading


@pytest.mark.parametrize("readout", ["exact", "paper"])
def test_cross_outputs_start_at_zero_only_when_exact(readout: str, tmp_path: Path) -> None:
    model = cross(readout=readout)
    model.save_pretrained(tmp_path / "whole")
    incomplete = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("to_")}
    model.save_pretrained(tmp_path / "incomplete", state_dict=incomplete)
    for candidate in (
        model,
        CrossForCausalLM.from_pretrained(tmp_path / "whole"),
        CrossForCausalLM.from_pretrained(tmp_path / "incomplete"),  # its cross blocks are made anew
    ):
        for block in [*candidate.to_text, *candidate.to_image]:
            for output in (block.o_proj, block.fc2):
                assert (output.weight.abs().max() == 0) == (readout == "exact")
            assert block.q_proj.weight.std() > 0.01


@pytest.mark.parametrize("readout", ["exact", "paper"])
@pytest.mark.parametrize("name", ["opt", "llama"])
def test_trained_values_survive_saving_and_loading(name: str, readout: str, tmp_path: Path) -> None:
    model = cross(name, readout=readout, trained=True)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert model.state_dict().keys() == loaded.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key]), key
    ids = torch.tensor([DOCUMENT])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded(ids).logits)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, CrossConfig) and config.exchanges == model.config.exchanges
    assert config.text_config.to_dict() == AutoConfig.from_pretrained(tmp_path).text_config.to_dict()


def test_tied_parents_stay_tied(tmp_path: Path) -> None:
    cross("llama").save_pretrained(tmp_path)
    loaded = CrossForCausalLM.from_pretrained(tmp_path)
    loaded.tie_weights()
    text, image = loaded.text_tower, loaded.image_tower
    assert text.head.weight is not text.embedding.weight and image.head.weight is image.embedding.weight
    assert cross("opt", readout="paper").lm_head is None
    assert cross("llama", readout="paper").lm_head is not None


def test_absent_rows_start_at_the_mean_row() -> None:
    tower = cross().text_tower
    assert tower.absent_input.shape == (1 + 6, 32)  # the vector of all others, <break>, <eoss>, 4 sentinels
    torch.testing.assert_close(tower.absent_input[3], tower.embedding.weight.mean(0))
    torch.testing.assert_close(tower.absent_output[5], tower.head.weight.mean(0))


def test_missing_controls_include_the_end_of_the_document() -> None:
    images_only = ParentRows(text_size=0, image_start=0)
    assert missing_controls(VOCABULARY, images_only.row_of(VOCABULARY)) == [2, *range(56, 62)]
    assert missing_controls(VOCABULARY, IMAGE_ROWS.row_of(VOCABULARY)) == [59, 60, 61]


def test_model_of_the_paper_size_without_memory() -> None:
    size = {"hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32}
    plain = {"enable_bias": False, "layer_norm_elementwise_affine": False, "max_position_embeddings": 4096}
    parent = OPTConfig(vocab_size=56_320 + 8_192, **size, **plain)
    vocabulary = Vocabulary(text_size=56_320, image_size=8_192, eos_id=2)
    for every, billions in {0: 13.2, 4: 16.4, 2: 19.6, 1: 26.1}.items():
        with torch.device("meta"):
            model = CrossForCausalLM(
                CrossConfig(
                    text_config=parent,
                    image_config=parent,
                    vocabulary=vocabulary.to_dict(),
                    image_grid=[32, 32],
                    text_rows=asdict(ParentRows(56_320)),
                    image_rows=asdict(ParentRows(56_320, 56_320)),
                    cross_every=every,
                    readout="paper",
                )
            )
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(billions * 1e9, rel=0.01)


# Logits


def test_forbidden_ids_have_no_probability_in_any_state() -> None:
    model = cross(trained=True)
    ids = torch.tensor([DOCUMENT[: len(State)]])
    states = torch.arange(len(State))[None]
    with torch.no_grad():
        logits = model.logits(model.hidden(ids), states)
    assert torch.equal(logits[0].isfinite(), model.grammar.allowed())


def test_training_computes_the_same_logits_and_gradients() -> None:
    model = cross(trained=True)
    hidden = torch.randn(31, 64, requires_grad=True)
    states = torch.randint(len(State), (31,))
    with torch.no_grad():
        expected = model.logits(hidden, states)
    logits = model.logits(hidden, states)
    torch.testing.assert_close(logits, expected)
    weight = torch.randn_like(logits)
    logits.masked_fill(logits.isinf(), 0).mul(weight).sum().backward()
    mixed = hidden.grad.clone()
    hidden.grad = None
    for row, state in enumerate(states):  # one position at a time
        logits = model.logits(hidden[row : row + 1], state[None])
        logits.masked_fill(logits.isinf(), 0).mul(weight[row]).sum().backward()
    torch.testing.assert_close(mixed, hidden.grad)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")  # its successor is not in 5.17
@pytest.mark.parametrize("name", ["opt", "llama"])
def test_recomputing_activations_changes_nothing(name: str) -> None:
    model = cross(name, trained=True).train()
    ids = torch.tensor([DOCUMENT])
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        logits = model(ids).logits
        logits.masked_fill(logits.isinf(), 0).square().sum().backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


def test_states_of_targets_follow_the_grammar() -> None:
    grammar = cross().grammar
    masked = [2, 5, B, 41, S0, 44, B, 6, 2, S0, 42, 43, VOCABULARY.eoss_id]
    for document in (DOCUMENT, masked):
        states = target_states(grammar, torch.tensor([document]))[0].tolist()
        assert states[:-1] == grammar.states(document)[1:]
        assert states[-1] == State.CLOSED
        for end in range(2, len(document)):  # beginnings of it: as far as can be known
            part = target_states(grammar, torch.tensor([document[:end]]))[0].tolist()
            assert part[:-1] == grammar.states(document[:end])[1:]


def test_spread_fills_gaps() -> None:
    logits = spread({4: torch.ones(2, 1), 1: torch.zeros(2, 2)}, 7)
    assert logits.tolist() == [[-torch.inf, 0, 0, -torch.inf, 1, -torch.inf, -torch.inf]] * 2


def test_mistakes_are_explained() -> None:
    text, image = pair("unequal")
    with pytest.raises(ValueError, match=r"hidden sizes differ: text 32, image 48.*'exact' does not"):
        config_of(text, image, readout="paper")
    projected = opt(TEXT_SIZE, word_embed_proj_dim=16)
    with pytest.raises(ValueError, match=r"the text parent's embedding is 16 wide and its layers 32.*'exact' keeps it"):
        config_of(projected, opt(IMAGE_SIZE), readout="paper")
    with pytest.raises(ValueError, match="readout 'joint' does not exist; choose one of exact, paper"):
        config_of(text, image, readout="joint")
    with pytest.raises(ValueError, match="cross_every is -1"):
        config_of(text, image, every=-1)
    with pytest.raises(ValueError, match="CrossConfig needs text_config"):
        CrossConfig()
    with pytest.raises(ValueError, match="model_type 'nonesuch'"):
        CrossConfig(**config_of(text, image).to_dict() | {"text_config": {"model_type": "nonesuch"}})
    with pytest.raises(ValueError, match="the image parent has no image codes"):
        CrossForCausalLM(CrossConfig(**config_of(text, image).to_dict() | {"image_rows": asdict(TEXT_ROWS)}))
    with pytest.raises(ValueError, match="needs row 59 of the model's embedding, which has 40"):
        SingleDecoder(text, VOCABULARY, [2, 2], IMAGE_ROWS)
    with pytest.raises(ValueError, match="needs row 59 of the text parent's embedding, which has 40"):
        CrossForCausalLM(CrossConfig(**config_of(text, image).to_dict() | {"text_rows": asdict(IMAGE_ROWS)}))
    model = cross()
    ids = torch.tensor([TEXT_DOCUMENT])
    with pytest.raises(ValueError, match="a sequence of 25 tokens is longer than the model's context of 24"):
        model(torch.full((1, 25), 2), states=torch.zeros(1, 25, dtype=torch.long))
    with pytest.raises(ValueError, match="a sequence of 25 tokens is longer"):
        model.new_cache(1, 25)
    with pytest.raises(ValueError, match=r"attention_mask is torch.int64 \[1, 9\]; it must be bool"):
        model(ids, attention_mask=torch.ones_like(ids))
    with pytest.raises(ValueError, match="states of the targets are needed with a cache"):
        model(ids, past_key_values=model.new_cache(1, 20))
    with pytest.raises(ValueError, match=r"a cache needs the positions and the mask"):
        model.hidden(ids, cache=model.new_cache(1, 20))
    with pytest.raises(ValueError, match="a document must begin with </s>"):
        model(ids[:, 1:])
