"""A plain decoder with the methods of joint models: a parent, or the result of uniform or width fusion."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from jam.grammar import Grammar, State
from jam.models.base import JointModel
from jam.models.cache import RowCache
from jam.models.cpu_kernel import kernel_in_use
from jam.models.rows import JointRows, spread
from jam.models.towers import Tower
from jam.packed import Mask
from jam.vocabulary import ParentRows, Vocabulary


class SingleDecoder(JointModel):
    """A decoder of `transformers` that reads and writes joint ids.

    Ids without a row are read through the mean input row and have the logit -inf; one softmax runs over all other ids,
    in every state.

    Args:
        model: the plain decoder, which training changes in place, or a config (for fresh weights).
        vocabulary: the joint vocabulary.
        image_grid: height and width of an image in tokens.
        rows: rows of the joint ids in the model's tables.
        whole: the composite model that contains the modules of `model`, if any (see `Composite.decoder_of`).
    """

    def __init__(
        self,
        model: PreTrainedModel | PretrainedConfig,
        vocabulary: Vocabulary,
        image_grid: tuple[int, int] | list[int],
        rows: ParentRows,
        whole: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        self._whole = (whole,)  # a tuple hides other modules of the composite, which are not trained or moved
        self.tower = Tower(model)
        self.joint_rows = JointRows(vocabulary, rows)
        self.joint_rows.check(self.tower.embedding.num_embeddings, "the model")
        self.grammar = Grammar(vocabulary, (image_grid[0], image_grid[1]))

    @property
    def model(self) -> PreTrainedModel:
        return self.tower.model

    @property
    def whole(self) -> PreTrainedModel:
        """The model to save: the composite model, or the decoder."""
        return self._whole[0] or self.model

    @cached_property
    def _allows_codes(self) -> list[bool]:
        """By state, True if an image code may follow."""
        vocabulary = self.vocabulary
        return self.grammar.allowed()[:, vocabulary.image_start : vocabulary.control_start].any(1).tolist()

    @cached_property
    def _allows_text(self) -> list[bool]:
        return self.grammar.allowed()[:, : self.vocabulary.text_size].any(1).tolist()

    def drop_all_but_heads(self) -> None:
        super().drop_all_but_heads()
        self._whole = (None,)

    @property
    def config(self) -> PretrainedConfig:
        """The plain decoder's config."""
        return self.tower.config

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.model.dtype

    @property
    def towers(self) -> list[Tower]:
        return [self.tower]

    def layer_pairs(self) -> list[list[nn.Module]]:
        return [[layer] for layer in self.tower.layers]

    def readout_parameters(self) -> list[nn.Parameter]:
        return self.tower.readout_parameters()

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Mask = None,
        cache: RowCache | None = None,
    ) -> Tensor:
        position_ids = self._positions(input_ids, position_ids, attention_mask, cache)
        return self.tower(self._embed(input_ids), position_ids, attention_mask, cache)

    def _embed(self, input_ids: Tensor) -> Tensor:
        row = self.joint_rows.parent_row[input_ids]
        embedded = self.tower.embedding(row.clamp(min=0))
        present = row >= 0
        # The mean of a large table takes time, and so does a GPU's wait for `present`.
        if self.joint_rows.complete or (not embedded.is_cuda and bool(present.all())):
            return embedded
        mean = self.tower.scaled(self.tower.embedding.weight.detach().mean(0))
        return torch.where(present[..., None], embedded, mean.to(embedded.dtype))

    def logits(self, hidden: Tensor, states: Tensor | None = None) -> Tensor:
        """Logits [..., V] of joint ids; within `using_kernel`, a modality that no state [...] allows is -inf."""
        hidden_NH = hidden.reshape(-1, hidden.shape[-1])
        vocabulary, rows = self.vocabulary, self.joint_rows.rows
        take = self.tower.products(hidden_NH)
        possible: list[int] = list(State)
        if kernel_in_use() and states is not None:
            possible = states.unique().tolist()
        codes_are = rows.has_images and any(self._allows_codes[state] for state in possible)
        pieces = {}
        if not codes_are or any(self._allows_text[state] for state in possible):
            pieces[0] = take(slice(0, rows.text_size))
            if rows.eos_row is not None:
                pieces[vocabulary.eos_id] = take(slice(rows.eos_row, rows.eos_row + 1))
        if codes_are:
            head = self.tower.image_head
            pieces[vocabulary.image_start] = take(self.joint_rows.codes) if head is None else head(hidden_NH)
        if self.joint_rows.controls:
            assert rows.control_start is not None
            pieces[vocabulary.control_start] = take(
                slice(rows.control_start, rows.control_start + self.joint_rows.controls)
            )
        logits = spread(pieces, vocabulary.size)
        for first, end in vocabulary.text_image_ids:
            logits[:, first:end] = -torch.inf
        return logits.view(*hidden.shape[:-1], -1)

    def save_pretrained(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the plain model for `transformers`.

        Args:
            state_dict: tensors to save instead of the model's tensors, by this class's names without adapters.
        """
        if state_dict is not None:
            state_dict = self._of_whole(state_dict)
        self.whole.save_pretrained(folder, state_dict=state_dict)

    def _of_whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of `whole` by their names there; tensors of the decoder come from `tensors`."""
        inside = {id(parameter): name for name, parameter in self.named_parameters()}  # tied tensors by first name
        found = {}
        for name, value in self.whole.state_dict(keep_vars=True).items():
            own = inside.get(id(value), "")
            if ".lora_" in own:
                continue
            found[name.replace(".base_layer.", ".")] = (
                tensors[own.replace(".base_layer.", ".")] if own else value.detach()
            )
        return found
