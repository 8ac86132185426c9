"""Questions to a text parent by `transformers`, and differences from the answers of the fused model.

The parent answers greedily. The fused model then reads each question with that answer, once: if the parent's id has the
greatest logit at every place, greedy decoding would write the same answer.

Shapes: N ids of an answer, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from jam.evaluation.retention import Network
from jam.fusion import Parent
from jam.fusion.document_layout import opening_of
from jam.grammar import Grammar, State
from jam.models import SingleDecoder
from jam.vocabulary import Vocabulary

QUESTIONS = (
    "How do I draw a red house? Answer in three steps.",
    "What is the capital of France?",
    "Write two sentences about the sea.",
    "Name three fruits.",
    "Why is the sky blue?",
    "Tell me a short story about a dog.",
    "What do plants need to grow?",
    "How many days has a week?",
    "Explain what a book is to a child.",
    "What should I cook tonight?",
)
NEW_IDS = 100
ROUNDING = 8  # logits that differ by fewer steps of the data type are equal, since a cache changes the rounding


@dataclass(frozen=True)
class Difference:
    """The first difference between two answers.

    Args:
        question: the question.
        place: number of the first id that differs; -1: the ids of the question differ.
        parent, fused: the ids of the parent and of the fused model at that place.
    """

    question: str
    place: int
    parent: int | None = None
    fused: int | None = None


@dataclass(frozen=True)
class Answers:
    """The comparison of answers.

    Args:
        asked: number of questions that the parent could be asked.
        ids: number of ids of all answers.
        by_template: True if the parent's own chat template wrote the questions.
        differences: the first difference of every answer that differs.
    """

    asked: int
    ids: int
    by_template: bool
    differences: list[Difference]


@dataclass(frozen=True)
class Asked:
    """A question, its ids, and the parent's answer."""

    question: str
    prompt: list[int]
    answer: list[int]


def own_prompt(parent: Parent, question: str, vocabulary: Vocabulary) -> list[int] | None:
    """The ids of a question by the parent's own tokenizer, or None if the folder writes questions differently.

    A family's layout, a parent's manifest, or a fusion by an earlier version make the folder differ.
    """
    if parent.tokenizer is None or parent.manifest is not None or vocabulary.layout is not None:
        return None
    if vocabulary.chat_template is None:
        begins_alike = vocabulary.begin_ids == opening_of(parent.tokenizer)
        return parent.tokenizer(f"{question}\n").input_ids if begins_alike else None
    turns = [{"role": "user", "content": question}]
    return list(parent.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))


@torch.inference_mode()
def ask(parent: SingleDecoder, prompts: dict[str, list[int]], vocabulary: Vocabulary, new_ids: int) -> list[Asked]:
    """The parent's greedy answers in text, by `generate` of the parent's class, in one batch.

    Long questions are left out. A parent without `generate` (the decoder inside a Chameleon) answers no question.
    """
    network: Any = parent.model
    if not hasattr(network, "generate"):
        return []
    context = network.config.max_position_embeddings
    fitting = {question: prompt for question, prompt in prompts.items() if len(prompt) < context}
    if not fitting:
        return []
    offered = offered_in_text(parent.grammar)[: vocabulary.text_size].nonzero().flatten().tolist()
    network.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=list(vocabulary.end_ids),
        pad_token_id=vocabulary.eos_id,
        suppress_tokens=sorted(set(range(network.config.vocab_size)) - set(offered)) or None,
    )
    length = max(map(len, fitting.values()))
    rows = [[vocabulary.eos_id] * (length - len(prompt)) + prompt for prompt in fitting.values()]
    is_prompt = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in fitting.values()]
    generated = network.generate(
        torch.tensor(rows, device=parent.device),
        attention_mask=torch.tensor(is_prompt, device=parent.device),
        max_new_tokens=min(new_ids, context - length),
    )
    answers = (_up_to_end(row, vocabulary) for row in generated[:, length:].tolist())
    return [
        Asked(question, prompt, answer) for (question, prompt), answer in zip(fitting.items(), answers, strict=True)
    ]


def offered_in_text(grammar: Grammar) -> torch.Tensor:
    """Bool ``[V]``: the ids that an answer without pictures may have."""
    offered_V = grammar.allowed()[State.TEXT].clone()
    offered_V[grammar.vocabulary.open_id] = False
    offered_V[grammar.vocabulary.sentinel_start :] = False
    return offered_V


def _up_to_end(ids: list[int], vocabulary: Vocabulary) -> list[int]:
    end = next((place for place, token in enumerate(ids) if vocabulary.ends_document(token)), len(ids))
    return ids[: end + 1]


@torch.inference_mode()
def differences(network: Network, asked: Sequence[Asked], grammar: Grammar) -> list[Difference]:
    """The places where greedy decoding of text without pictures would first differ from the parent's answers."""
    offered_V = offered_in_text(grammar).to(network.device)
    found = []
    for entry in asked:
        prompt, answer = entry.prompt, entry.answer
        ids = torch.tensor([[*prompt, *answer]], device=network.device)
        hidden = network.hidden(ids[:, :-1])[0, len(prompt) - 1 :]
        states = torch.full((len(answer),), int(State.TEXT), device=network.device)
        logits_NV = network.logits(hidden, states).masked_fill(~offered_V, -torch.inf)
        best_N, chosen_N = logits_NV.max(-1)
        parents_N = logits_NV.gather(1, ids[0, len(prompt) :, None])[:, 0]
        step = ROUNDING * torch.finfo(logits_NV.dtype).eps * best_N.abs().clamp(min=1)
        if apart := (best_N - parents_N > step).nonzero().flatten().tolist():
            place = apart[0]
            found.append(Difference(entry.question, place, answer[place], int(chosen_N[place])))
    return found
