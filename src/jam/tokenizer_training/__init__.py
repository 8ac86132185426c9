"""Training of image tokenizers: a VQGAN on any pictures, which ends as an ordinary `diffusers.VQModel` folder."""

from jam.tokenizer_training.config import PictureSource, TokenizerConfig
from jam.tokenizer_training.trainer import TOKENIZER, TokenizerStep, TokenizerTrainer

__all__ = ["TOKENIZER", "PictureSource", "TokenizerConfig", "TokenizerStep", "TokenizerTrainer"]
