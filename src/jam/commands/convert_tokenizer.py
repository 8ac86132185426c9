"""`jam convert-tokenizer`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from jam.api.converting import convert_tokenizer
from jam.codec import describe_image_tokenizer
from jam.commands.arguments import Parser, make_parser
from jam.console import Console

EXAMPLES = """
jam convert-tokenizer chameleon/tokenizer/vqgan.ckpt --out chameleon-vqgan
jam convert-tokenizer vqgan.ckpt --yaml configs/vqgan.yaml --out chameleon-vqgan
jam convert-tokenizer janus-pro --out janus-vq
jam fuse --text chameleon --image anole --image-tokenizer chameleon-vqgan --out fused
"""


def parser() -> Parser:
    description = (
        "Make an image tokenizer folder of Chameleon's original VQGAN, which Anole, Liquid and Lumina-mGPT use too, or "
        "of a checkpoint of Janus or Emu3."
    )
    parser = make_parser("convert-tokenizer", description, EXAMPLES)
    parser.add_argument(
        "source",
        type=Path,
        help="vqgan.ckpt; or the folder of a checkpoint: of Janus or Emu3, or of Chameleon, whose VQGAN only encodes",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument(
        "--yaml", type=Path | None, default=None, help="file that describes the .ckpt; default: the .yaml beside it"
    )
    return parser


def run(settings: Namespace) -> None:
    console = Console(soft_wrap=True, highlight=False)
    decodes = convert_tokenizer(settings.source, settings.out, settings.yaml)
    info = describe_image_tokenizer(settings.out)
    height, width = info.grid
    pictures = f"pictures of {info.resolution} x {info.resolution} pixels are {height} x {width} tokens"
    if not decodes:
        console.print("note: it only encodes, for the checkpoint has no decoder; vqgan.ckpt has one", markup=False)
    console.print(f"{settings.out}: {info.codebook_size:,} codes, {pictures}", markup=False)
