"""Options for `GenerationSettings`, and the model, for commands that generate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from jsonargparse import Namespace

from jam.api.loading import load
from jam.api.model import Model
from jam.commands.arguments import Parser
from jam.generation import GenerationSettings

HELP = {
    "max_new_tokens": "most tokens to write; a picture that would not fit whole is not begun",
    "min_images": "fewest pictures to draw",
    "max_images": "most pictures to draw",
    "temperature": "divides the logits; 0 takes the most probable token",
    "top_p": "sample from the smallest set of tokens of at least this probability",
    "top_k": "sample from this number of most probable tokens; 0 is all",
    "min_p": "sample from text tokens at least this probable, relative to the most probable",
    "repetition_penalty": "makes repeated text less probable; 1 is none",
    "image_temperature": "temperature of image tokens",
    "image_top_p": "top-p of image tokens",
    "image_top_k": "top-k of image tokens",
    "guidance_scale": "classifier-free guidance on image tokens; 1 is none",
    "guidance_end": "guidance at the end of a picture, with a linear or cosine schedule",
    "guidance_schedule": "schedule from guidance scale to guidance end",
    "image_grid": "tokens of a picture as [height,width], where documents say a picture's size",
    "stop": "a string that ends the document; several are possible",
    "seed": "equal seeds give equal documents",
}


def add_settings(parser: Parser, leave_out: tuple[str, ...] = (), defaults: Mapping[str, str] = {}) -> None:
    """Add an option for every field of `GenerationSettings` but `leave_out`; `defaults` has words for some defaults."""
    hints = get_type_hints(GenerationSettings)
    for field in fields(GenerationSettings):
        if field.name in leave_out:
            continue
        text = f"{HELP[field.name]}; default: {defaults.get(field.name, 'that of the model')}"
        if field.name == "stop":
            parser.add_argument("--stop", type=str, nargs="+", default=None, help=text)
        else:
            parser.add_argument(f"--{field.name}", type=hints[field.name] | None, default=None, help=text)


def chosen_settings(settings: Namespace) -> dict[str, Any]:
    """The fields of `GenerationSettings` that the user chose."""
    names = [field.name for field in fields(GenerationSettings)]
    return {name: value for name in names if (value := getattr(settings, name, None)) is not None}


def load_chosen(settings: Namespace) -> Model:
    """The model, loaded by the options of placement, speed and checking."""
    names = ("model", "device", "dtype", "device_map", "int8", "compile", "check")
    return load(*(getattr(settings, name) for name in names))
