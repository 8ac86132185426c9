"""A model folder, loaded: the joint model with its codec, manifest and generation settings."""

from jam.model.loading import choose_device, context_of, load, load_codec
from jam.model.model import Model

__all__ = ["Model", "choose_device", "context_of", "load", "load_codec"]
