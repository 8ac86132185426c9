"""A parent as a tower.

Shapes: B batch, T time, K keys, d width of the tower, V size of the joint vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache

from jam.models.cache import of_layer
from jam.models.controls import check_image_head
from jam.models.cpu_kernel import kernel_in_use, product_of_head
from jam.models.rows import JointRows, select, spread
from jam.models.towers.attention import with_packed
from jam.models.towers.base import FULL, SLIDING, Context
from jam.models.towers.masks import additive, windowed
from jam.models.towers.registry import decoder_config, family_of
from jam.packed import Mask
from jam.vocabulary import ParentRows, Vocabulary


class Tower(nn.Module):
    """A ...ForCausalLM as the submodule `model`, so that state-dict keys are a prefix and the parent's keys.

    Args:
        model: the parent, or a config (for fresh weights; for a composite checkpoint, only the decoder).
        first_layer: index of the tower's first layer in the cache.

    Raises:
        ValueError: the architecture has no family, or no tower can use the parent.
    """

    def __init__(self, model: PreTrainedModel | PretrainedConfig, first_layer: int = 0) -> None:
        super().__init__()
        config = decoder_config(model.config if isinstance(model, PreTrainedModel) else model)
        self.family = family_of(config)
        self.first_layer = first_layer
        self.layer_types = self.family.layer_types(config)
        self._check(model, config)
        if not isinstance(model, PreTrainedModel):
            config._attn_implementation = self.family.attention
            model = self.family.model_class(config)
        self.model = model
        packed = with_packed(config)
        for index, layer in enumerate(self.layers, start=first_layer):
            attention = self.family.attention_of(layer)
            attention.layer_idx = index
            if self.family.attention == "sdpa":
                attention.config = packed

    def _check(self, model: PreTrainedModel | PretrainedConfig, config: PretrainedConfig) -> None:
        if isinstance(model, PreTrainedModel) and not isinstance(model, self.family.model_class):
            raise ValueError(
                f"a tower of {config.model_type} is made of a {self.family.model_class.__name__} or a config, not of a "
                f"{type(model).__name__}; give the model's config, and load the decoder's weights"
            )
        chosen = config._attn_implementation
        if chosen not in (self.family.attention, None):
            raise ValueError(
                f"attention implementation {chosen!r} is not supported: towers of {config.model_type} need the masks "
                f"and scores of {self.family.attention!r}; load the model with "
                f"attn_implementation={self.family.attention!r}"
            )
        kinds, window = set(self.layer_types), getattr(config, "sliding_window", None)
        if kinds - {FULL, SLIDING} or (SLIDING in kinds and window is None):
            raise ValueError(
                f"layer_types of this {config.model_type} are {sorted(kinds)} with sliding_window {window}; towers "
                f"know {FULL}, and {SLIDING} with a sliding_window"
            )

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Tied names for `PreTrainedModel.post_init` of a model that contains this tower."""
        return {f"model.{target}": f"model.{source}" for target, source in self.model.all_tied_weights_keys.items()}

    @property
    def _no_split_modules(self) -> set[str]:
        return set(self.model._no_split_modules or [])

    def _part(self, name: str | None) -> nn.Module | None:
        return attrgetter(name)(self.model) if name else None

    def take(self, name: str | None) -> nn.Module | None:
        """Remove a part, named as in the family, from the tower and return the part."""
        part = self._part(name)
        if name and part is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(parent), leaf, None)
        return part

    def drop_all_but_head(self) -> None:
        """Remove layers and embedding; the tower can still read out hidden states."""
        self.take(self.family.layers)
        self.take(self.family.embedding)

    def drop_vocabulary(self) -> None:
        """Remove embedding and head; the tower has only layers."""
        self.take(self.family.embedding)
        self.take(self.family.head)
        # As in a class without ties: PEFT would look for a tied embedding.
        self.model._tied_weights_keys = None  # type: ignore[assignment]
        self.model.all_tied_weights_keys = {}

    @property
    def embedding(self) -> nn.Embedding:
        part = self._part(self.family.embedding)
        assert isinstance(part, nn.Embedding)
        return part

    @property
    def head(self) -> nn.Linear:
        part = self._part(self.family.head)
        assert isinstance(part, nn.Linear) and part.bias is None
        return part

    @property
    def image_head(self) -> nn.Module | None:
        """The module that writes image codes; None if image codes are rows of the head."""
        return self._part(self.family.image_head)

    @property
    def layers(self) -> nn.ModuleList:
        part = self._part(self.family.layers)
        assert isinstance(part, nn.ModuleList)
        return part

    def readout_parameters(self) -> list[nn.Parameter]:
        """The parameters that give logits."""
        image_head = self.image_head
        return [self.head.weight, *(image_head.parameters() if image_head is not None else ())]

    def scaled(self, rows: Tensor) -> Tensor:
        """Rows of the embedding's table, scaled as in the embedding's output."""
        scale = self.family.embedding_scale(self.config)
        return rows if scale == 1 else rows * torch.tensor(scale, dtype=rows.dtype)

    def capped(self, logits: Tensor) -> Tensor:
        """The parent's logits, from products with the head's rows."""
        cap = self.family.logit_cap(self.config)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def products(self, hidden: Tensor) -> Callable[[slice | Tensor], Tensor]:
        """A function from rows of the parent's head (as in `select`) to their logits [N, rows].

        The kernel of a matrix product, and so the last bit of the result, depends on the shape of the matrix: to equal
        the parent exactly, the function multiplies the whole head. Training and `using_kernel` multiply only the rows.
        """
        weight = self.head.weight

        def part(rows: slice | Tensor) -> Tensor:
            return self.capped(product_of_head(hidden, select(weight, rows)))

        if torch.is_grad_enabled():
            return part
        whole = functools.cache(lambda: self.capped(product_of_head(hidden, weight)))
        return lambda rows: part(rows) if kernel_in_use() and isinstance(rows, slice) else select(whole(), rows, dim=1)

    def enter(
        self, embedded: Tensor, position_ids: Tensor, mask: Mask = None, cache: Cache | None = None
    ) -> tuple[Tensor, Context]:
        """The first layer's input [B, T, d] and the layers' context, from embedded tokens [B, T, embedding width].

        Args:
            position_ids: long [B or 1, T].
            mask: bool [B, 1, T, K], True where visible; packed documents; or None (plain causal, without a cache).
        """
        hidden = self.family.widen(self.model, embedded)
        table = self._part(self.family.positions)
        if table is not None:
            hidden = hidden + self.family.positions_of(table, position_ids)
        masks: dict[str, Mask] = {}
        for kind in set(self.layer_types):
            visible = mask
            if kind == SLIDING:
                visible = windowed(mask, position_ids, self.config.sliding_window, cached=cache is not None)
            masks[kind] = visible if self.family.attention == "sdpa" else additive(visible, hidden)
        return hidden, Context(self.family.rotary(self.model, hidden, position_ids, cache), masks, cache)

    def layer(self, index: int, hidden: Tensor, context: Context) -> Tensor:
        """The output of layer `index`, [B, T, d] to [B, T, d]."""
        kind = self.layer_types[index]
        rotary, mask = context.rotary.get(kind), context.masks[kind]
        cache = of_layer(context.cache, self.first_layer + index)
        return self.family.call_layer(self.layers[index], hidden, rotary, mask, cache)

    def leave(self, hidden: Tensor) -> Tensor:
        """The head's input, from the last layer's output [B, T, d] (by the final norm, if any)."""
        norm = self._part(self.family.norm)
        return self.family.narrow(self.model, hidden if norm is None else norm(hidden))

    def forward(self, embedded: Tensor, position_ids: Tensor, mask: Mask = None, cache: Cache | None = None) -> Tensor:
        """The head's input [B, T, head width] from embedded tokens [B, T, embedding width]; arguments as in `enter`."""
        hidden, context = self.enter(embedded, position_ids, mask, cache)
        for index in range(len(self.layers)):
            hidden = self.layer(index, hidden, context)
        return self.leave(hidden)


class JointTower(Tower):
    """A tower that reads and writes joint ids (the `exact` input and readout).

    Ids without a row in the parent's table are read through one learned vector, ``absent_input[0]``; `missing_controls`
    have rows of their own, ``absent_input[1:]`` and ``absent_output``. If the parent has another tokenizer, text ids
    without a row are read through `text_input`, ``[text ids, embedding width]``. All these rows start at the parent's
    mean row; rows are scaled and logits are capped as the parent's.

    Raises:
        ValueError: a module of the parent writes image codes that are not the codes of `vocabulary`.
    """

    def __init__(
        self, model: PreTrainedModel | PretrainedConfig, vocabulary: Vocabulary, rows: ParentRows, first_layer: int = 0
    ) -> None:
        super().__init__(model, first_layer)
        self.joint_rows = JointRows(vocabulary, rows)
        missing = len(self.joint_rows.missing)
        self.absent_input = nn.Parameter(torch.empty(1 + missing, self.embedding.embedding_dim))
        self.absent_output = nn.Parameter(torch.empty(missing, self.head.in_features)) if missing else None
        text_shape = (vocabulary.text_size, self.embedding.embedding_dim)
        self.text_input = nn.Parameter(torch.empty(text_shape)) if rows.made_text else None
        start = self.head.out_features
        codes = self.embedding.num_embeddings - start
        if self.image_head is not None:
            check_image_head(vocabulary, rows, self.config.model_type, start, codes)

    def init_rows(self) -> None:
        """Set the learned rows to the parent's mean row."""
        for rows in (self.absent_input, self.text_input):
            if rows is not None:
                init.copy_(rows, self.embedding.weight.mean(0).expand_as(rows))
        if self.absent_output is not None:
            init.copy_(self.absent_output, self.head.weight.mean(0).expand_as(self.absent_output))

    def drop_all_but_head(self) -> None:
        super().drop_all_but_head()
        self.text_input = None

    def readout_parameters(self) -> list[nn.Parameter]:
        own = super().readout_parameters()
        return own if self.absent_output is None else [*own, self.absent_output]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Joint ids [B, T] to embedded tokens [B, T, embedding width]."""
        row = self.joint_rows.parent_row[input_ids]
        own = self.embedding(row.clamp(min=0))
        absent = self.scaled(F.embedding(self.joint_rows.absent_row[input_ids], self.absent_input))
        if self.text_input is not None:
            text_size = self.joint_rows.vocabulary.text_size
            text = self.scaled(F.embedding(input_ids.clamp(max=text_size - 1), self.text_input))
            absent = torch.where((input_ids < text_size)[..., None], text, absent)
        return torch.where((row >= 0)[..., None], own, absent)

    def columns(self, hidden: Tensor, image: bool) -> Tensor:
        """Logits [N, V] of one modality and the controls, from the head's input [N, head width]; -inf elsewhere.

        Text ids that name image codes keep the logits of their rows; the grammar forbids these ids.
        """
        vocabulary, rows = self.joint_rows.vocabulary, self.joint_rows.rows
        take = self.products(hidden)
        pieces: dict[int, Tensor] = {}
        if image:
            assert rows.has_images
            pieces[vocabulary.image_start] = (
                take(self.joint_rows.codes) if self.image_head is None else self.image_head(hidden)
            )
            for token in vocabulary.end_ids:
                if (row := self.joint_rows.row_of[token]) >= 0:
                    pieces[token] = take(slice(row, row + 1))
        else:
            pieces[0] = take(slice(0, rows.text_size))
        if self.joint_rows.controls:
            assert rows.control_start is not None
            pieces[vocabulary.control_start] = take(
                slice(rows.control_start, rows.control_start + self.joint_rows.controls)
            )
        if self.absent_output is not None:
            extra = self.capped(product_of_head(hidden, self.absent_output))
            ends = sum(token < vocabulary.text_size for token in self.joint_rows.missing)  # the first missing ids
            for place, token in enumerate(self.joint_rows.missing[: ends + 1]):
                pieces[token] = extra[:, place : place + 1 if place < ends else None]
        return spread(pieces, vocabulary.size)
