"""Perplexity of a model in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from jam.data import Source, plain_batches
from jam.models import JointModel
from jam.models.scoring import Perplexity, token_nll
from jam.training.config import TrainConfig
from jam.training.distributed import World, reshard
from jam.training.forward import autocast, batch_hidden, is_image, select


@torch.no_grad()
def validate(
    model: JointModel,
    sources: Sequence[Source],
    config: TrainConfig,
    world: World,
    device: torch.device,
    check: Callable[[], None],
) -> dict[str, float | int | None]:
    """Perplexity by modality over the validation documents, unmasked and without dropout, as in `jam eval`.

    The processes divide the batches, and all get the report. All processes call `check` before each batch; `check` may
    raise, which leaves the model unchanged.
    """
    counts, allowed = Perplexity(), model.grammar.allowed().to(device)
    was_training = model.training
    model.eval()
    try:
        for source in sources:
            pieces = [source[number] for number in range(len(source))]
            batches = list(plain_batches(pieces, model.grammar, source.context, config.micro_batch_size))
            for number, is_own in world.turns(len(batches)):
                check()
                batch = batches[number].to(device)
                with autocast(device, config.precision == "bf16" and world.size == 1):
                    hidden, targets, states, _ = select(batch, batch_hidden(model, batch))
                    nll = token_nll(model, hidden, targets, states, allowed, config.max_logits)
                if is_own:
                    counts.add(nll, is_image(targets, model))
    finally:
        model.train(was_training)
        reshard(model)
    sums = world.sum([counts.text_nats, counts.text_tokens, counts.image_nats, counts.image_tokens])
    return Perplexity(sums[0], int(sums[1]), sums[2], int(sums[3])).report()
