"""Configuration of the cross-attention model."""

from __future__ import annotations

import copy
from dataclasses import field
from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from jam.models.cross_shapes import check_settings, exchanges
from jam.models.towers import decoder_config, family_of
from jam.models.towers.janus import DECODER
from jam.vocabulary import ParentRows, Vocabulary


class CrossConfig(PretrainedConfig):
    """Configuration of two parents side by side.

    Args:
        text_config: config of the text parent's decoder.
        image_config: config of the image parent's decoder.
        vocabulary: the joint vocabulary (`Vocabulary.to_dict`).
        image_grid: height and width of an image in tokens.
        text_rows: rows of the text parent's tables (`dataclasses.asdict` of `ParentRows`).
        image_rows: rows of the image parent's tables.
        cross_every: k: the towers exchange after layers 0, k, 2k, ...; 0: never.
        readout: ``exact`` (embedding, norm, head per tower) or ``paper`` (shared); docs/method.md section 2.
    """

    model_type = "jam_cross"
    sub_configs: ClassVar[dict[str, type]] = {"text_config": AutoConfig, "image_config": AutoConfig}
    has_no_defaults_at_init = True

    text_config: Any = None  # a dict in config.json, the parent's own class after construction
    image_config: Any = None
    vocabulary: dict = field(default_factory=dict)
    image_grid: list = field(default_factory=list)
    text_rows: dict = field(default_factory=dict)
    image_rows: dict = field(default_factory=dict)
    cross_every: int = 2
    readout: str = "exact"

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("text_config", "image_config", "vocabulary", "image_grid", "text_rows", "image_rows"):
            if not getattr(self, name):
                raise ValueError(f"CrossConfig needs {name}")
        self.text_config = _sub_config(self.text_config)
        self.image_config = _sub_config(self.image_config)
        self.image_grid = [int(side) for side in self.image_grid]
        check_settings(self.text_config, self.image_config, self.cross_every, self.readout)
        # Parents tie inside their towers. Only the shared tables of the readout ``paper`` can be tied here, and must
        # not be if a parent has an untied head, which would be lost.
        both_tie = bool(self.text_config.tie_word_embeddings and self.image_config.tie_word_embeddings)
        self.tie_word_embeddings = self.readout == "paper" and both_tie
        super().__post_init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> CrossConfig:
        """This config: `transformers` sizes caches by its `num_hidden_layers`."""
        return self

    @property
    def fresh_std(self) -> float:
        """Standard deviation of new weights, as for the text parent."""
        return getattr(self.text_config, family_of(self.text_config).initializer)

    @property
    def exchanges(self) -> list[int]:
        """The layers after which the towers exchange: 0, k, 2k, ... up to the last layer of the shallower tower."""
        return exchanges(self.text_config, self.image_config, self.cross_every)

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers in the cache: text tower, image tower, then two cross blocks per exchange."""
        return self.text_config.num_hidden_layers + self.image_config.num_hidden_layers + 2 * len(self.exchanges)

    @property
    def vocab_size(self) -> int:
        return self.joint_vocabulary.size

    @property
    def max_position_embeddings(self) -> int:
        return min(self.text_config.max_position_embeddings, self.image_config.max_position_embeddings)

    @property
    def joint_vocabulary(self) -> Vocabulary:
        return Vocabulary.from_dict(self.vocabulary)

    @property
    def parent_rows(self) -> tuple[ParentRows, ParentRows]:
        """Rows of the text parent and of the image parent."""
        return ParentRows(**self.text_rows), ParentRows(**self.image_rows)


def _sub_config(config: dict | PretrainedConfig) -> PretrainedConfig:
    if isinstance(config, dict):
        model_type = config.get("model_type")
        if model_type == DECODER:
            import jam.models.towers.janus_decoder  # noqa: F401  (which registers it)
        if model_type is None or model_type not in CONFIG_MAPPING:
            raise ValueError(f"a parent's config has the model_type {model_type!r}, which transformers does not know")
        config = CONFIG_MAPPING[model_type](**config)
    config = decoder_config(config)
    family_of(config)
    # A copy: this config spreads settings (such as the attention implementation) to its parts, not to the parent.
    return copy.deepcopy(config)


AutoConfig.register(CrossConfig.model_type, CrossConfig, exist_ok=True)
