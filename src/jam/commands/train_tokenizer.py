"""`jam train-tokenizer`."""

from __future__ import annotations

from jsonargparse import Namespace

from jam.commands.arguments import Parser, make_parser
from jam.console import Console
from jam.console.progress import Smoothed, progress_bar
from jam.console.training import steps_of
from jam.tokenizer_training import TOKENIZER, TokenizerConfig, TokenizerTrainer

EXAMPLES = """
jam train-tokenizer recipes/image-tokenizer-64.yaml --out runs/tokenizer --sources pictures
jam train-tokenizer recipes/image-tokenizer.yaml --out runs/tokenizer --sources captions.jsonl
jam train-tokenizer recipes/image-tokenizer-64.yaml --out runs/tokenizer --resume
"""
RECIPE = True


def parser() -> Parser:
    description = "Train an image tokenizer (VQGAN) by a recipe (YAML); every key is an option too."
    parser = make_parser("train-tokenizer", description, EXAMPLES)
    parser.add_argument("--config", action="config", help="the recipe; may stand first without --config")
    parser.add_class_arguments(TokenizerConfig, skip={"resume"})
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in --out")
    return parser


def read_config(settings: Namespace) -> TokenizerConfig:
    """The settings of a run, from parsed arguments. Raises ValueError for values that do not fit together."""
    return TokenizerConfig(**{key: value for key, value in vars(settings).items() if key != "config"})


def run(settings: Namespace) -> None:
    config = read_config(settings)
    console = Console(soft_wrap=True, highlight=False)
    trainer = TokenizerTrainer(config)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    learnt, held = len(trainer.pictures), len(trainer.held)
    console.print(
        f"{config.steps} steps of {config.batch_size} of {learnt} pictures, {held} are left out; "
        f"{config.resolution} x {config.resolution} pixels to {config.grid} x {config.grid} of "
        f"{config.codebook_size:,} codes, {parameters / 1e6:.1f}M parameters"
    )
    smooth = Smoothed()
    with steps_of(trainer, console) as steps, progress_bar(console) as progress:
        task = progress.add_task("training", total=config.steps, completed=0, figures="")
        for step in steps:
            names = ("loss", "pixel_loss", "perceptual_loss", "commitment")
            figures = smooth({name: getattr(step, name) for name in names})
            rate = smooth({"pictures/s": step.pictures / step.seconds}, digits=0)
            codes = "" if step.codes_used is None else f" codes {step.codes_used}"
            progress.update(task, completed=step.step, figures=f"{figures}{codes} {rate}")
    report = trainer.report
    console.print(
        f"{report['pictures']} pictures left out: PSNR {report['psnr']:.2f} dB, SSIM {report['ssim']:.3f}, "
        f"{report['codes_used']:,} of {config.codebook_size:,} codes used ({report['code_usage']:.0%}), "
        f"perplexity of the codes {report['code_perplexity']:.0f}"
    )
    if unreadable := len(trainer.pictures.unreadable) + len(trainer.held.unreadable):
        console.print(f"{unreadable} pictures could not be read; unreadable.jsonl lists them", markup=False)
    console.print(f"{config.out}/{TOKENIZER}: the image tokenizer; records are in {config.out}", markup=False)
