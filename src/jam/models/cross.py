"""The cross-attention model: two towers side by side on the same tokens (docs/method.md, section 2).

Shapes: B batch, T time, K keys, N positions, V joint vocabulary, H what `hidden` returns a position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from jam.grammar import IMAGE_STATES, Cursor, Grammar, State
from jam.models.base import JointModel
from jam.models.cache import RowCache, of_layer
from jam.models.cpu_kernel import KernelLinear, product
from jam.models.cross_block import CrossBlock, Projection
from jam.models.cross_config import CrossConfig
from jam.models.rows import JointRows
from jam.models.towers import Context, JointTower, Tower, family_of
from jam.packed import Mask
from jam.vocabulary import Vocabulary


class CrossForCausalLM(JointModel, PreTrainedModel):
    """Towers `text_tower` and `image_tower` that exchange through the cross blocks `to_text` and `to_image`.

    With the readout ``exact`` each tower keeps its embedding, final norm and head, a softmax runs inside what the
    grammar allows, and cross blocks start as the identity: before training, text logits are the text parent's and image
    logits the image parent's. With ``paper`` there is one `embed_tokens` (and one `embed_positions` where positions are
    learned), the last states go through `fuse` and `norm`, and one softmax runs over everything.
    """

    config_class = CrossConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CrossBlock"]  # noqa: RUF012 (the library's own convention)
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012

    allowed: Tensor
    image_states: Tensor

    def __init__(self, config: CrossConfig) -> None:
        super().__init__(config)
        text, image = config.text_config, config.image_config
        vocabulary, (text_rows, image_rows) = config.joint_vocabulary, config.parent_rows
        self.grammar = Grammar(vocabulary, (config.image_grid[0], config.image_grid[1]))
        depth = text.num_hidden_layers
        if config.readout == "exact":
            if not image_rows.has_images:
                raise ValueError(
                    "the image parent has no image codes: image_rows say neither image_start nor image_rows"
                )
            text_tower = JointTower(text, vocabulary, text_rows)
            image_tower = JointTower(image, vocabulary, image_rows, first_layer=depth)
            text_tower.joint_rows.check(text.vocab_size, "the text parent")
            image_tower.joint_rows.check(image.vocab_size, "the image parent")
            self.text_tower: Tower = text_tower
            self.image_tower: Tower = image_tower
            shape = len(State), vocabulary.size
            self.register_buffer("allowed", torch.empty(shape, dtype=torch.bool), persistent=False)
            self.register_buffer("image_states", torch.empty(len(State), dtype=torch.bool), persistent=False)
            self._fill_tables()
        else:
            self.text_tower, self.image_tower = Tower(text), Tower(image, first_layer=depth)
            self._share(vocabulary)
        self.to_text = self._blocks(text, image.hidden_size, first_layer=depth + image.num_hidden_layers)
        self.to_image = self._blocks(image, text.hidden_size, first_layer=depth + image.num_hidden_layers + 1)
        self.post_init()

    def _blocks(self, receiver: PretrainedConfig, other_size: int, first_layer: int) -> nn.ModuleList:
        """Cross blocks of one direction; those of the other one have the cache indices between."""
        text, std = self.config.text_config, self.config.fresh_std
        activation = getattr(text, family_of(text).activation)
        output_std = 0.0 if self.config.readout == "exact" else std
        return nn.ModuleList(
            CrossBlock(receiver, other_size, activation, first_layer + 2 * index, std, output_std)
            for index in range(len(self.config.exchanges))
        )

    def _share(self, vocabulary: Vocabulary) -> None:
        """Put one embedding, position table, norm and head in the place of the towers' (readout ``paper``)."""
        text, image = self.text_tower, self.image_tower
        size = self.config.text_config.hidden_size
        self.embed_tokens = nn.Embedding(vocabulary.size, size)
        tables = [tower.take(tower.family.positions) for tower in (text, image)]
        self.embed_positions = next((table for table in tables if table is not None), None)
        self.position_family = (text if tables[0] is not None else image).family
        self.fuse = Projection(2 * size, size, std=size**-0.5)
        norms = [tower.take(tower.family.norm) for tower in (text, image)]
        self.norm = norms[0] or nn.Identity()
        self.lm_head = None if self.config.tie_word_embeddings else nn.Linear(size, vocabulary.size, bias=False)
        for tower in (text, image):
            tower.drop_vocabulary()

    def _fill_tables(self) -> None:
        self.allowed.copy_(self.grammar.allowed())
        self.image_states.copy_(IMAGE_STATES)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights of what is not inside a parent (parents initialise their own), and the buffers' contents.

        `init` leaves alone what a checkpoint has filled. The library calls this for the modules that have parameters or
        buffers of their own, children first.
        """
        if isinstance(module, JointRows):
            module.fill()
        elif isinstance(module, JointTower):
            for made in (module.absent_input, module.text_input):
                if made is not None:
                    init.copy_(made, module.embedding.weight.mean(0).expand_as(made))
            if module.absent_output is not None:
                init.copy_(module.absent_output, module.head.weight.mean(0).expand_as(module.absent_output))
        elif isinstance(module, Projection):
            init.normal_(module.weight, std=module.std)
        elif isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=self.config.fresh_std)
        elif module is self and self.config.readout == "exact":
            self._fill_tables()

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
        if self.config.readout == "paper":
            return list((self.lm_head or self.embed_tokens).parameters())
        return [parameter for tower in self._joint_towers() for parameter in tower.readout_parameters()]

    def readout_weights(self) -> list[Tensor]:
        if self.config.readout == "paper":
            return [(self.lm_head or self.embed_tokens).weight]
        return super().readout_weights()

    def weights_outside(self) -> list[Tensor]:
        return [self.fuse.weight] if self.config.readout == "paper" else []

    def tower_of(self, role: str) -> JointTower | None:
        tower = self.text_tower if role == "text" else self.image_tower
        return tower if isinstance(tower, JointTower) else None

    def drop_all_but_heads(self) -> None:
        super().drop_all_but_heads()
        self.to_text, self.to_image = nn.ModuleList(), nn.ModuleList()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_tower.embedding if self.config.readout == "exact" else self.embed_tokens

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Mask = None,
        cache: RowCache | None = None,
    ) -> Tensor:
        position_ids = self._positions(input_ids, position_ids, attention_mask, cache)
        (text, text_context), (image, image_context) = self._enter(input_ids, position_ids, attention_mask, cache)
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
        if self.config.readout == "exact":
            return torch.cat([self.text_tower.leave(text), self.image_tower.leave(image)], dim=-1)
        return self.norm(self.fuse(torch.cat([text, image], dim=-1)))

    def _joint_towers(self) -> tuple[JointTower, JointTower]:
        text, image = self.text_tower, self.image_tower
        assert isinstance(text, JointTower) and isinstance(image, JointTower), "only `exact` has them"
        return text, image

    def _enter(
        self, input_ids: Tensor, position_ids: Tensor, mask: Mask, cache: RowCache | None
    ) -> list[tuple[Tensor, Context]]:
        """First input and context of each tower."""
        if self.config.readout == "exact":
            return [tower.enter(tower.embed(input_ids), position_ids, mask, cache) for tower in self._joint_towers()]
        rows = self.embed_tokens(input_ids)
        table, entered = self.embed_positions, []
        for tower in (self.text_tower, self.image_tower):
            embedded = tower.scaled(rows)
            if table is not None:
                embedded = embedded + self.position_family.positions_of(table, position_ids)
            entered.append(tower.enter(embedded, position_ids, mask, cache))
        return entered

    def logits(self, hidden: Tensor, states: Tensor) -> Tensor:
        """Logits [..., V] from `hidden` [..., H] and the states of the targets, long [...].

        ``exact``: the tower that the state names answers, and what the grammar forbids is -inf. With gradients only the
        rows of `hidden` that a head answers for go through it; without, all do, so that the result equals the parents'
        to the last bit (see `JointTower.columns`). States on the CPU spare a GPU the wait for what they say. ``paper``:
        one head and no mask; states are not looked at.
        """
        if self.config.readout == "paper":
            multiply = product if isinstance(self.fuse, KernelLinear) else F.linear
            return multiply(hidden, (self.lm_head or self.embed_tokens).weight)
        states_N = states.reshape(-1)
        text, image = self._joint_towers()
        text_NH, image_NH = hidden.reshape(-1, hidden.shape[-1]).split(
            [text.head.in_features, image.head.in_features], dim=-1
        )
        is_image = (IMAGE_STATES if states_N.device.type == "cpu" else self.image_states)[states_N]
        images = int(is_image.sum())
        if images == 0:
            logits = text.columns(text_NH, image=False)
        elif images == len(is_image):
            logits = image.columns(image_NH, image=True)
        elif torch.is_grad_enabled() or text.uses_kernel:
            at_text, at_image = (part.nonzero()[:, 0].to(hidden.device) for part in (~is_image, is_image))
            text_logits = text.columns(text_NH.index_select(0, at_text), image=False)
            image_logits = image.columns(image_NH.index_select(0, at_image), image=True)
            logits = text_logits.new_empty(len(states_N), text_logits.shape[1])
            logits.index_copy_(0, at_text, text_logits).index_copy_(0, at_image, image_logits)
        else:
            logits = torch.where(is_image[:, None], image.columns(image_NH, True), text.columns(text_NH, False))
        logits.masked_fill_(~self.allowed[states_N.to(logits.device)], -torch.inf)
        return logits.view(*states.shape, -1)

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
