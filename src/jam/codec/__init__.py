"""Between documents and ids: text tokenizer, image tokenizer and their interleaving."""

from jam.codec.codec import Codec, Encoded
from jam.codec.images import ImageTokenizer, ImageTokenizerInfo, describe_image_tokenizer, load_image_tokenizer
from jam.codec.text import load_tokenizer

__all__ = [
    "Codec",
    "Encoded",
    "ImageTokenizer",
    "ImageTokenizerInfo",
    "describe_image_tokenizer",
    "load_image_tokenizer",
    "load_tokenizer",
]
