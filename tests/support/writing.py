"""Random models that like to begin pictures, end sentences and close documents, for tests of decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from jam.api.model import Model
from jam.codec import Codec
from jam.generation import GenerationSettings
from support import tiny


def writer(folder: Path, kind: str = "cross", context: int = 96, **changes: Any) -> Model:
    """A model whose every weight matters; random texts with full stops, spaces and pictures."""
    model = tiny.model(folder, kind, context=context, **changes)
    for parameter in model.joint.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    like(model)
    model.joint.eval()
    return model


def like(model: Model, **likings: float) -> None:
    """Add to the logits of some ids: pictures, full stops, spaces, ends of documents, ends of gaps."""
    plain = type(model.joint).logits.__get__(model.joint)
    v, codec = model.codec.vocabulary, model.codec
    liking = torch.zeros(v.size)
    chosen = {"picture": 6.0, "stop": 7.0, "space": 7.0, "end": 3.0, "close": 0.0} | likings
    liking[v.break_id] = chosen["picture"]
    liking[ids_of(codec, ".")], liking[ids_of(codec, " ")] = chosen["stop"], chosen["space"]
    liking[v.eos_id], liking[v.eoss_id] = chosen["end"], chosen["close"]
    model.joint.logits = lambda hidden, states: plain(hidden, states) + liking


def begin_pictures(model: Model, by: float = 1000.0) -> None:
    """Add to the logit of what opens a picture, as no model does that was never aligned."""
    plain, open_id = model.joint.logits, model.joint.vocabulary.open_id

    def logits(hidden: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        made = plain(hidden, states)
        made[..., open_id] += by
        return made

    model.joint.logits = logits


def ids_of(codec: Codec, text: str) -> list[int]:
    return codec.tokenizer(text, add_special_tokens=False)["input_ids"]


def settings_of(rng: torch.Generator, longest: int = 60) -> GenerationSettings:
    """Random settings: budgets, counts of pictures, sampling, guidance."""

    def pick(*values: Any) -> Any:
        return values[int(torch.randint(len(values), (1,), generator=rng))]

    least = pick(0, 0, 0, 1, 2)
    schedule = pick("constant", "constant", "linear", "cosine")
    return GenerationSettings(
        max_new_tokens=int(torch.randint(6 * least + 2, longest, (1,), generator=rng)),
        min_images=least,
        max_images=pick(None, least, least + 1),
        temperature=pick(0.0, 0.7, 1.0, 1.3),
        top_p=pick(1.0, 0.9),
        top_k=pick(0, 0, 20),
        min_p=pick(0.0, 0.02),
        repetition_penalty=pick(1.0, 1.3),
        image_temperature=pick(None, 0.5),
        image_top_k=pick(None, 4),
        guidance_scale=pick(1.0, 2.0, 3.0),
        guidance_schedule=schedule,
        guidance_end=None if schedule == "constant" else pick(1.0, 4.0),
        stop=pick((), (), ("e.", "..")),
        seed=int(torch.randint(2**31, (1,), generator=rng)),
    )
