"""The loss in pieces equals the plain one, with all gradients; z-loss, accuracy, and what is never made."""

from __future__ import annotations

import pytest
import torch

from jam.grammar import State
from jam.models import CrossForCausalLM
from jam.models.scoring import token_nll, weighted_loss
from support import tiny
from support.joint_models import cross as cross_model

VOCABULARY = tiny.codec().vocabulary


def network(kind: str):
    torch.manual_seed(1)
    if kind == "unequal":
        return cross_model("unequal", trained=True)
    made = tiny.network(kind.removesuffix("-paper"), VOCABULARY, readout="paper" if "paper" in kind else "exact")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def example(model, count: int = 57, only_text: bool = False):
    """Hidden states, allowed targets with their states, and weights."""
    generator = torch.Generator().manual_seed(3)
    allowed = model.grammar.allowed()
    states = torch.randint(len(allowed), (count,), generator=generator)
    states[(allowed[states].sum(-1) == 0) | only_text] = State.TEXT
    targets = torch.multinomial(allowed[states].float(), 1, generator=generator)[:, 0]
    if not isinstance(model, CrossForCausalLM):
        targets = targets.clamp(max=model.vocabulary.control_start - 1)
    width = (
        sum(t.head.in_features for t in (model.text_tower, model.image_tower))
        if isinstance(model, CrossForCausalLM) and model.config.readout == "exact"
        else 32
    )
    hidden = torch.randn(count, width, generator=generator, requires_grad=True)
    return hidden, targets, states, torch.rand(count, generator=generator)


def gradients(model, hidden, loss):
    parameters = model.readout_parameters()
    found = torch.autograd.grad(loss, [hidden, *parameters], allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip([hidden, *parameters], found, strict=True)]


@pytest.mark.parametrize("kind", ["cross", "cross-paper", "single", "unequal"])
@pytest.mark.parametrize("max_logits", [1, 3000, 2**25])
def test_the_loss_in_pieces_equals_the_plain_one(kind, max_logits):
    model = network(kind)
    hidden, targets, states, weights = example(model)
    nll = token_nll(model, hidden, targets, states)
    loss, scores = weighted_loss(model, hidden, targets, states, weights, max_logits=max_logits)
    plain = (nll * weights).sum()
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(scores.nll, nll.detach(), rtol=1e-6, atol=1e-6)
    for ours, expected in zip(gradients(model, hidden, 0.3 * loss), gradients(model, hidden, 0.3 * plain), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_accuracy_and_z_loss():
    model = network("cross")
    hidden, targets, states, weights = example(model)
    logits = model.logits(hidden, states).float()
    nll = -logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected = ((nll + 0.01 * logits.logsumexp(-1).square()) * weights).sum()
    loss, scores = weighted_loss(model, hidden, targets, states, weights, 0.01, 3000)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert torch.equal(scores.is_right, logits.argmax(-1) == targets)
    for ours, plain in zip(gradients(model, hidden, loss), gradients(model, hidden, expected), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_logits_never_exist_as_a_whole(monkeypatch):
    model = network("cross")
    hidden, targets, states, weights = example(model)
    sizes, made = [], model.logits
    monkeypatch.setattr(model, "logits", lambda *args: sizes.append(made(*args).numel()) or made(*args))
    weighted_loss(model, hidden, targets, states, weights, max_logits=3000)
    assert len(sizes) > 5 and max(sizes) <= 3000


def test_every_parameter_of_the_readout_gets_a_gradient():
    """Of a batch of text alone, too, and of one in which nothing counts."""
    model = network("cross")
    for count in (9, 0):
        hidden, targets, states, weights = example(model, count, only_text=True)
        weighted_loss(model, hidden, targets, states, weights)[0].backward()
        parameters = model.readout_parameters()
        assert len(parameters) == 3 and all(parameter.grad is not None for parameter in parameters)
        assert not model.image_tower.head.weight.grad.any()
        assert hidden.grad is not None
