"""The decode engine: text until `<break>`, one whole picture, text again, until `</s>`, for many prompts at once.

Every step is one forward for all rows that are still being written, whether they are in text or in a picture. A guided
row brings a second, unconditional stream while it is in a picture (guidance.py). Both kinds of stream live in one cache
with a length per row; the document's own part of it is never rebuilt.

Shapes: R rows, G guided ones among them, S = R + G streams, T new ids of a stream, H hidden, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from jam.generation.guidance import guide, unconditional_prefix
from jam.generation.row import Generation, Row, Stream
from jam.generation.sampling import sample
from jam.generation.settings import GenerationSettings
from jam.grammar import State
from jam.models import JointModel
from jam.models.cache import RowCache

OnStep = Callable[[Sequence[Row]], None]


class Engine:
    """Writes documents with one model, which should be in eval mode."""

    def __init__(self, model: JointModel) -> None:
        self.model = model
        self.vocabulary = model.vocabulary
        self.device = model.device
        self.prefix = unconditional_prefix(self.vocabulary) if self.vocabulary.image_size else []
        self.allowed = model.grammar.allowed().to(self.device)  # [states, V]
        self.offered = self.allowed.clone()
        self.offered[:, self.vocabulary.sentinel_start :] = False  # mask tokens belong to training

    @torch.inference_mode()
    def run(
        self,
        prompts: Sequence[list[int]],
        settings: GenerationSettings | Sequence[GenerationSettings],
        on_step: OnStep | None = None,
    ) -> list[Generation]:
        """Continue each prompt to the end of its document.

        Args:
            prompts: joint ids, beginning with ``</s>``; pictures may be among them, and the last one may be unfinished.
            settings: one for all prompts (each draws apart, see `GenerationSettings.for_row`), or one for each.
            on_step: called with all rows after every step, for progress.

        Raises:
            ValueError: a prompt is empty, too long, or not the beginning of a document (see `Row`).
        """
        rows = self._rows(prompts, settings)
        if not rows:
            return []
        cache = self._open_cache(rows)
        while active := [row for row in rows if row.finish_reason is None]:
            self._step(active, cache)
            if on_step is not None:
                on_step(rows)
        return [row.result() for row in rows]

    def _step(self, rows: list[Row], cache: RowCache) -> None:
        """One forward, and one token for every row."""
        guiding = {index: row.guiding for index, row in enumerate(rows) if row.guiding is not None}
        guided = list(guiding)
        self._rewind([stream for index, stream in guiding.items() if rows[index].begins_image], cache)
        states_R = torch.tensor([row.state for row in rows], device=self.device)

        hidden_SH = self._read([*(row.stream for row in rows), *guiding.values()], cache)
        logits_SV = self.model.logits(hidden_SH, torch.cat([states_R, states_R[guided]])).float()
        logits_RV, unconditional_GV = logits_SV.split([len(rows), len(guided)])
        log_probs_RV = logits_RV.masked_fill(~self.allowed[states_R], -torch.inf).log_softmax(-1)

        scale_G = self._tensor([rows[index].settings.guidance_scale for index in guided])
        logits_RV[guided] = guide(logits_RV[guided], unconditional_GV, scale_G)
        tokens_R = self._sample(rows, logits_RV.where(self._offered(rows, states_R), -torch.inf))

        chosen_R = log_probs_RV.gather(-1, tokens_R.unsqueeze(-1)).squeeze(-1)
        for row, token, log_prob in zip(rows, tokens_R.tolist(), chosen_R.tolist(), strict=True):
            row.take(token, log_prob)

    def _read(self, streams: list[Stream], cache: RowCache) -> Tensor:
        """Read the pending ids of all streams into the cache, in one forward; the last hidden state of each, [S, H]."""
        slots = [stream.slot for stream in streams]
        # Taking rows out of the cache copies them: rows that pause come along without an id if they are the fewer.
        in_place = 2 * len(streams) > cache.rows
        pending = {stream.slot: stream.pending for stream in streams}
        ids = [pending.get(slot, []) for slot in (range(cache.rows) if in_place else slots)]
        counts_S = self._tensor([len(row) for row in ids])
        rows = [torch.tensor(row, dtype=torch.long) for row in ids]
        ids_ST = pad_sequence(rows, batch_first=True, padding_value=self.vocabulary.eos_id).to(self.device)

        positions_ST, mask = cache.step(counts_S, None if in_place else self._tensor(slots))
        hidden_STH = self.model.hidden(ids_ST, positions_ST, mask, cache)
        cache.advance()
        for stream in streams:
            stream.pending = []
        batch_S = self._tensor(slots) if in_place else torch.arange(len(slots), device=self.device)
        return hidden_STH[batch_S, counts_S[batch_S] - 1]

    def _offered(self, rows: list[Row], states_R: Tensor) -> Tensor:
        """What may be sampled, bool [R, V]: the grammar, without what begins a picture where none may begin."""
        offered_RV = self.offered[states_R]
        closed = [index for index, row in enumerate(rows) if not row.may_break]
        offered_RV[closed, self.vocabulary.open_id] = False
        return offered_RV

    def _sample(self, rows: list[Row], logits_RV: Tensor) -> Tensor:
        """One token a row, [R], with the temperature and top-p of the modality that the row is in."""
        temperature_R = self._tensor([row.settings.temperature_of(row.state is State.IMAGE) for row in rows])
        top_p_R = self._tensor([row.settings.top_p_of(row.state is State.IMAGE) for row in rows])
        return sample(logits_RV, temperature_R, top_p_R, self._tensor([row.uniform for row in rows]))

    def _rows(
        self, prompts: Sequence[list[int]], settings: GenerationSettings | Sequence[GenerationSettings]
    ) -> list[Row]:
        if isinstance(settings, GenerationSettings):
            settings = [settings.for_row(index) for index in range(len(prompts))]
        if len(settings) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(settings)} settings: give one for all, or one for each")
        rows = []
        slots = itertools.count()
        for prompt, chosen in zip(prompts, settings, strict=True):
            row = Row(prompt, chosen, self.model.grammar, self.model.context_length, slot=next(slots))
            if chosen.is_guided and self.vocabulary.image_size:
                row.add_guidance(slot=next(slots))
            rows.append(row)
        return rows

    def _open_cache(self, rows: list[Row]) -> RowCache:
        """A cache for these rows; the unconditional streams have read their prefix, which serves all their pictures."""
        unconditional = [row.unconditional for row in rows if row.unconditional is not None]
        longest = max(len(row.prompt) + row.budget for row in rows)
        for row in rows:
            if row.unconditional is not None:
                longest = max(longest, len(self.prefix) + row.cursor.image_length)
        cache = self.model.new_cache(len(rows) + len(unconditional), longest)
        if unconditional:
            self._read([Stream(stream.slot, list(self.prefix)) for stream in unconditional], cache)
        return cache

    def _rewind(self, streams: list[Stream], cache: RowCache) -> None:
        """Take streams back to the end of their prefix, whose keys and values are in the cache still."""
        if streams:
            slots_S = torch.tensor([stream.slot for stream in streams])
            cache.reset(slots_S)
            cache.step(torch.full_like(slots_S, len(self.prefix)), slots_S)  # step over the prefix without a forward
            cache.advance()

    def _tensor(self, values: list) -> Tensor:
        return torch.tensor(values, device=self.device)
