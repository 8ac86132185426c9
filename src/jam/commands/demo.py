"""`jam demo`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from jam.commands.arguments import Parser, make_parser, require
from jam.console import Console

EXAMPLES = """
jam demo
jam demo --long
jam demo --report
"""


def parser() -> Parser:
    parser = make_parser("demo", "Fuse the built-in tiny parents, align, tune, answer held-out questions.", EXAMPLES)
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="folder to write, an earlier demo there is replaced; default: jam-demo, jam-demo-long or jam-report",
    )
    parser.add_argument("--prompts", type=int, default=100, help="held-out questions to answer")
    parser.add_argument(
        "--long", action="store_true", help="the longer recipe: more than four times the tuning steps, and CM3"
    )
    parser.add_argument(
        "--report", action="store_true", help="instead: every fusion after the same alignment, in a table"
    )
    return parser


def run(settings: Namespace) -> None:
    from jam.demo.report import report
    from jam.demo.story import LONG, SHORT, story

    require(settings.prompts >= 1, "--prompts", settings.prompts, "1 or more")
    console = Console()
    if settings.report:
        report(settings.out or Path("jam-report"), console)
    else:
        out = settings.out or Path("jam-demo-long" if settings.long else "jam-demo")
        story(out, settings.prompts, LONG if settings.long else SHORT, console)
