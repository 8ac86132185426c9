"""The cross-attention model: two towers side by side on the same tokens (docs/method.md, section 2).

Shapes: B batch, T time, K keys, N positions, V joint vocabulary, H what `hidden` returns a position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from jam.grammar import Cursor, Grammar
from jam.models.base import JointModel
from jam.models.cache import RowCache, of_layer
from jam.models.cross_block import CrossBlock, Projection
from jam.models.cross_config import CrossConfig
from jam.models.readouts import READOUTS, Readout
from jam.models.towers import JointTower, Tower, family_of
from jam.packed import Mask


class CrossForCausalLM(JointModel, PreTrainedModel):
    """Towers `text_tower` and `image_tower` that exchange through the cross blocks `to_text` and `to_image`.

    Its readout (`jam.models.readouts`) is ``exact`` or ``paper``. With ``exact`` cross blocks start as the identity:
    before training, text logits are the text parent's and image logits the image parent's.
    """

    config_class = CrossConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CrossBlock"]  # noqa: RUF012 (the library's own convention)
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012

    text_tower: Tower
    image_tower: Tower

    def __init__(self, config: CrossConfig) -> None:
        super().__init__(config)
        text, image = config.text_config, config.image_config
        depth = text.num_hidden_layers + image.num_hidden_layers
        self.grammar = Grammar(config.joint_vocabulary, (config.image_grid[0], config.image_grid[1]))
        self.readout.build()
        self.to_text = self._blocks(text, image.hidden_size, first_layer=depth)
        self.to_image = self._blocks(image, text.hidden_size, first_layer=depth + 1)
        self.post_init()

    def _blocks(self, receiver: PretrainedConfig, other_size: int, first_layer: int) -> nn.ModuleList:
        """Cross blocks of one direction; the other direction's blocks have the cache indices between."""
        text, std = self.config.text_config, self.config.fresh_std
        activation = getattr(text, family_of(text).activation)
        output_std = 0.0 if self.readout.identity_at_first else std
        return nn.ModuleList(
            CrossBlock(receiver, other_size, activation, first_layer + 2 * index, std, output_std)
            for index in range(len(self.config.exchanges))
        )

    @property
    def readout(self) -> Readout:
        """How ids enter and logits leave."""
        return READOUTS[self.config.readout](self)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights of what is not inside a parent (parents initialise their own), and the buffers' contents.

        `init` leaves alone what a checkpoint has filled. The library calls this for the modules that have parameters or
        buffers of their own, children first.
        """
        if isinstance(module, Projection):
            init.normal_(module.weight, std=module.std)
        else:
            self.readout.init_weights(module)

    @property
    def towers(self) -> list[Tower]:
        return [self.text_tower, self.image_tower]

    @property
    def cross_blocks(self) -> list[CrossBlock]:
        return [*self.to_text, *self.to_image]  # type: ignore[list-item]

    def layer_pairs(self) -> list[list[nn.Module]]:
        towers = [list(tower.layers) for tower in (self.text_tower, self.image_tower)]
        pairs: list[list[nn.Module]] = [
            [layers[depth] for layers in towers if depth < len(layers)] for depth in range(max(map(len, towers)))
        ]
        for index, depth in enumerate(self.config.exchanges):
            pairs[depth] += [self.to_text[index], self.to_image[index]]
        return pairs

    def readout_parameters(self) -> list[nn.Parameter]:
        return self.readout.parameters()

    def readout_weights(self) -> list[Tensor]:
        return self.readout.weights()

    def weights_outside(self) -> list[Tensor]:
        return self.readout.weights_outside()

    def tower_of(self, role: str) -> JointTower | None:
        tower = self.text_tower if role == "text" else self.image_tower
        return tower if isinstance(tower, JointTower) else None

    def drop_all_but_heads(self) -> None:
        super().drop_all_but_heads()
        self.to_text, self.to_image = nn.ModuleList(), nn.ModuleList()

    def get_input_embeddings(self) -> nn.Module:
        return self.readout.input_embeddings

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Mask = None,
        cache: RowCache | None = None,
    ) -> Tensor:
        position_ids = self._positions(input_ids, position_ids, attention_mask, cache)
        (text, text_context), (image, image_context) = (
            tower.enter(embedded, position_ids, attention_mask, cache)
            for tower, embedded in zip(self.towers, self.readout.embed(input_ids, position_ids), strict=True)
        )
        text_rotary, image_rotary = text_context.global_rotary, image_context.global_rotary
        both_rotary = text_rotary is not None and image_rotary is not None
        exchanges = {layer: index for index, layer in enumerate(self.config.exchanges)}
        text_depth, image_depth = len(self.text_tower.layers), len(self.image_tower.layers)
        for depth in range(max(text_depth, image_depth)):
            if depth < text_depth:
                text = self.text_tower.layer(depth, text, text_context)
            if depth < image_depth:
                image = self.image_tower.layer(depth, image, image_context)
            if depth in exchanges:
                to_text, to_image = self.to_text[exchanges[depth]], self.to_image[exchanges[depth]]
                place = text_depth + image_depth + 2 * exchanges[depth]
                caches = of_layer(cache, place), of_layer(cache, place + 1)
                text, image = (  # both from the states before the exchange
                    to_text(text, image, attention_mask, text_rotary if both_rotary else None, caches[0]),
                    to_image(image, text, attention_mask, image_rotary if both_rotary else None, caches[1]),
                )
        return self.readout.leave(text, image)

    def logits(self, hidden: Tensor, states: Tensor) -> Tensor:
        return self.readout.logits(hidden, states)

    def forward(
        self,
        input_ids: Tensor,
        states: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Mask = None,
        past_key_values: RowCache | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] of the next tokens.

        Args:
            states: state of every target (of the token that follows), long [B, T]. None: found by the grammar; rows are
                whole documents, or beginnings of them, then.
            past_key_values: a cache. Without `position_ids` all its rows take part, each with all T tokens, and the
                cache is advanced; else the caller has called `RowCache.step`, and calls `advance`.

        The other arguments are those of `hidden`.
        """
        if states is None:
            if past_key_values is not None or position_ids is not None:
                raise ValueError("states of the targets are needed with a cache or packed rows; pass `states`")
            states = target_states(self.grammar, input_ids)
        if past_key_values is not None and position_ids is None:
            counts = torch.full((len(input_ids),), input_ids.shape[1], device=input_ids.device)
            position_ids, attention_mask = past_key_values.step(counts)
            hidden = self.hidden(input_ids, position_ids, attention_mask, past_key_values)
            past_key_values.advance()
        else:
            hidden = self.hidden(input_ids, position_ids, attention_mask, past_key_values)
        return CausalLMOutputWithPast(logits=self.logits(hidden, states), past_key_values=past_key_values)


def target_states(grammar: Grammar, input_ids: Tensor) -> Tensor:
    """State in which the token after each id is chosen, long [B, T], for rows that begin a document."""
    result = [[*grammar.states(ids)[1:], Cursor.after(grammar, ids).state] for ids in input_ids.tolist()]
    return torch.tensor(result, device=input_ids.device)


AutoModelForCausalLM.register(CrossConfig, CrossForCausalLM, exist_ok=True)
