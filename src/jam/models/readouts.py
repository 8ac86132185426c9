"""How joint ids enter two towers, and how logits leave them: one class a readout, with one interface.

A readout holds no tensors: it builds what it needs in the model, where files have it, and finds it there again.
Shapes: B batch, T time, N positions, V joint vocabulary, H what `logits` reads a position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init

from jam.grammar import IMAGE_STATES, State
from jam.models.cpu_kernel import kernel_in_use, product_of_head
from jam.models.cross_block import Projection
from jam.models.rows import JointRows
from jam.models.towers import JointTower, Tower


class Readout(ABC):
    """What a model with a `text_tower` and an `image_tower` reads ids with and makes logits of.

    Args:
        model: has the `grammar`, and a config with `text_config`, `image_config`, `joint_vocabulary` and `parent_rows`.

    Attributes:
        identity_at_first: whether fresh cross blocks add nothing to the streams.
    """

    identity_at_first: ClassVar[bool]

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def build(self) -> None:
        """Put both towers, and what the readout needs beside them, into the model."""

    @abstractmethod
    def init_weights(self, module: nn.Module) -> None:
        """Fresh weights, or the contents of buffers, of one module that `build` made and of none inside a parent."""

    @property
    @abstractmethod
    def input_embeddings(self) -> nn.Module:
        """The table that text ids are looked up in."""

    @abstractmethod
    def embed(self, input_ids: Tensor, position_ids: Tensor) -> list[Tensor]:
        """Joint ids [B, T] as what the text tower and the image tower enter, [B, T, embedding width] each."""

    @abstractmethod
    def leave(self, text: Tensor, image: Tensor) -> Tensor:
        """The output of both towers' last layers, [B, T, width] each, to [B, T, H]."""

    @abstractmethod
    def logits(self, hidden: Tensor, states: Tensor) -> Tensor:
        """Logits [..., V] from `hidden` [..., H] and the states of the targets, long [...]."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What `logits` reads beside hidden states."""

    @abstractmethod
    def weights(self) -> list[Tensor]:
        """The matrices that make logits: of text and of images, or one for both."""

    def weights_outside(self) -> list[Tensor]:
        """Matrices that are neither in a block nor among `weights`."""
        return []


class ExactReadout(Readout):
    """Each tower keeps its embedding, final norm and head; a softmax runs inside what the grammar allows."""

    identity_at_first = True

    def build(self) -> None:
        model, config = self.model, self.model.config
        text, image, vocabulary = config.text_config, config.image_config, config.joint_vocabulary
        text_rows, image_rows = config.parent_rows
        if not image_rows.has_images:
            raise ValueError("the image parent has no image codes: image_rows say neither image_start nor image_rows")
        model.text_tower = JointTower(text, vocabulary, text_rows)
        model.image_tower = JointTower(image, vocabulary, image_rows, first_layer=text.num_hidden_layers)
        model.text_tower.joint_rows.check(text.vocab_size, "the text parent")
        model.image_tower.joint_rows.check(image.vocab_size, "the image parent")
        shape = len(State), vocabulary.size
        model.register_buffer("allowed", torch.empty(shape, dtype=torch.bool), persistent=False)
        model.register_buffer("image_states", torch.empty(len(State), dtype=torch.bool), persistent=False)
        self._fill_tables()

    def _fill_tables(self) -> None:
        self.model.allowed.copy_(self.model.grammar.allowed())
        self.model.image_states.copy_(IMAGE_STATES)

    @property
    def towers(self) -> list[JointTower]:
        """The text parent's, then the image parent's."""
        return [self.model.text_tower, self.model.image_tower]

    def init_weights(self, module: nn.Module) -> None:
        if isinstance(module, JointRows):
            module.fill()
        elif isinstance(module, JointTower):
            module.init_rows()
        elif module is self.model:
            self._fill_tables()

    @property
    def input_embeddings(self) -> nn.Module:
        return self.towers[0].embedding

    def embed(self, input_ids: Tensor, position_ids: Tensor) -> list[Tensor]:
        return [tower.embed(input_ids) for tower in self.towers]

    def leave(self, text: Tensor, image: Tensor) -> Tensor:
        text_tower, image_tower = self.towers
        return torch.cat([text_tower.leave(text), image_tower.leave(image)], dim=-1)

    def logits(self, hidden: Tensor, states: Tensor) -> Tensor:
        """The tower that the state names answers, and what the grammar forbids is -inf.

        With gradients only the rows of `hidden` that a head answers for go through it; without, all do, so that the
        result equals the parents' to the last bit (see `JointTower.columns`). States on the CPU spare a GPU the wait
        for what they say.
        """
        states_N = states.reshape(-1)
        text, image = self.towers
        text_NH, image_NH = hidden.reshape(-1, hidden.shape[-1]).split(
            [text.head.in_features, image.head.in_features], dim=-1
        )
        is_image = (IMAGE_STATES if states_N.device.type == "cpu" else self.model.image_states)[states_N]
        images = int(is_image.sum())
        if images == 0:
            logits = text.columns(text_NH, image=False)
        elif images == len(is_image):
            logits = image.columns(image_NH, image=True)
        elif torch.is_grad_enabled() or kernel_in_use():
            at_text, at_image = (part.nonzero()[:, 0].to(hidden.device) for part in (~is_image, is_image))
            text_logits = text.columns(text_NH.index_select(0, at_text), image=False)
            image_logits = image.columns(image_NH.index_select(0, at_image), image=True)
            logits = text_logits.new_empty(len(states_N), text_logits.shape[1])
            logits.index_copy_(0, at_text, text_logits).index_copy_(0, at_image, image_logits)
        else:
            logits = torch.where(is_image[:, None], image.columns(image_NH, True), text.columns(text_NH, False))
        logits.masked_fill_(~self.model.allowed[states_N.to(logits.device)], -torch.inf)
        return logits.view(*states.shape, -1)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for tower in self.towers for parameter in tower.readout_parameters()]

    def weights(self) -> list[Tensor]:
        return [tower.head.weight for tower in self.towers]


class PaperReadout(Readout):
    """One table, norm and head in the place of the towers', and one softmax over everything.

    There is one `embed_tokens`, and one `embed_positions` where positions are learned; the last states go through
    `fuse` and `norm`.
    """

    identity_at_first = False

    def build(self) -> None:
        model, config = self.model, self.model.config
        text, image = Tower(config.text_config), Tower(config.image_config, config.text_config.num_hidden_layers)
        model.text_tower, model.image_tower = text, image
        size, vocabulary = config.text_config.hidden_size, config.joint_vocabulary
        model.embed_tokens = nn.Embedding(vocabulary.size, size)
        tables = [tower.take(tower.family.positions) for tower in (text, image)]
        model.embed_positions = next((table for table in tables if table is not None), None)
        model.position_family = (text if tables[0] is not None else image).family
        model.fuse = Projection(2 * size, size, std=size**-0.5)
        norms = [tower.take(tower.family.norm) for tower in (text, image)]
        model.norm = norms[0] or nn.Identity()
        model.lm_head = None if config.tie_word_embeddings else nn.Linear(size, vocabulary.size, bias=False)
        for tower in (text, image):
            tower.drop_vocabulary()

    def init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=self.model.config.fresh_std)

    @property
    def input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    @property
    def _head(self) -> nn.Linear | nn.Embedding:
        return self.model.lm_head or self.model.embed_tokens

    def embed(self, input_ids: Tensor, position_ids: Tensor) -> list[Tensor]:
        model = self.model
        rows = model.embed_tokens(input_ids)
        embedded = [tower.scaled(rows) for tower in (model.text_tower, model.image_tower)]
        if model.embed_positions is None:
            return embedded
        positions = model.position_family.positions_of(model.embed_positions, position_ids)
        return [hidden + positions for hidden in embedded]

    def leave(self, text: Tensor, image: Tensor) -> Tensor:
        return self.model.norm(self.model.fuse(torch.cat([text, image], dim=-1)))

    def logits(self, hidden: Tensor, states: Tensor) -> Tensor:
        """One head and no mask: states are not looked at."""
        return product_of_head(hidden, self._head.weight)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._head.parameters())

    def weights(self) -> list[Tensor]:
        return [self._head.weight]

    def weights_outside(self) -> list[Tensor]:
        return [self.model.fuse.weight]


READOUTS: dict[str, type[Readout]] = {"exact": ExactReadout, "paper": PaperReadout}
