"""Carry a fusion out: plan, then compute and write one tensor after another."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from jam.checkpoints import Manifest, new_folder, write_checkpoint, write_json
from jam.checkpoints.folders import format_bytes, refuse_existing
from jam.fusion.cross import Readout, cross
from jam.fusion.pair import CodebookInfo, Pair, join
from jam.fusion.parents import Parent
from jam.fusion.plan import FusionPlan
from jam.fusion.uniform import uniform
from jam.fusion.width import Init, width

Method = Literal["cross", "uniform", "width"]
DTypeName = Literal["float32", "bfloat16", "float16"]


@dataclass
class FuseConfig:
    """Settings of `jam fuse`.

    Args:
        text: folder of the language model.
        image: folder of the image-token model.
        out: folder to write; it must not exist.
        image_tokenizer: folder of the image tokenizer; default: `image_tokenizer/` in the image parent.
        method: cross, uniform or width.
        every: cross: exchange after layers 0, every, 2 every, ...; 0 for no cross blocks.
        readout: cross: "exact" loses nothing of the parents, "paper" is the paper's one softmax.
        init: width: what fills the blocks off the diagonal.
        sentinels: number of CM3 mask tokens; default: as many as the parents have, else 512.
        image_codes: number of image codes, for a plan without image tokenizer.
        image_start: row of the first image code in the image parent's table; default: the codes are its last rows.
        dtype: data type of the result; default: the parents'.
        plan: print what would happen, and stop; config.json of each parent is enough.
        json: print the plan as JSON on stdout.
        seed: seed of new weights.
    """

    text: str
    image: str
    out: str | None = None
    image_tokenizer: str | None = None
    method: Method = "cross"
    every: int = 2
    readout: Readout = "exact"
    init: Init = "copy"
    sentinels: int | None = None
    image_codes: int | None = None
    image_start: int | None = None
    dtype: DTypeName | None = None
    plan: bool = False
    json: bool = False
    seed: int = 0


def find_image_tokenizer(config: FuseConfig) -> Path | None:
    """The folder named in the settings, else `image_tokenizer/` in the image parent, else None.

    Raises:
        ValueError: the folder that is named does not exist.
    """
    if config.image_tokenizer is not None:
        if not Path(config.image_tokenizer).is_dir():
            raise ValueError(f"--image-tokenizer {config.image_tokenizer}: there is no such folder")
        return Path(config.image_tokenizer)
    inside = Path(config.image) / "image_tokenizer"
    return inside if inside.is_dir() else None


def make_pair(config: FuseConfig, image_tokenizer_info: CodebookInfo | None = None) -> Pair:
    """Describe both parents and find their joint vocabulary. Raises ValueError when they don't fit together."""
    return join(
        Parent.describe(config.text, "text"),
        Parent.describe(config.image, "image"),
        image_tokenizer=image_tokenizer_info,
        image_codes=config.image_codes,
        image_start=config.image_start,
        sentinels=config.sentinels,
        dtype=getattr(torch, config.dtype) if config.dtype else None,
        plan_only=config.plan,
    )


def make_plan(config: FuseConfig, pair: Pair) -> FusionPlan:
    """Plan the fusion of a pair. Raises ValueError when the method cannot fuse it."""
    if config.method == "uniform":
        return uniform(pair)
    if config.method == "width":
        return width(pair, config.init)
    return cross(pair, every=config.every, readout=config.readout, seed=config.seed)


def fuse(
    config: FuseConfig, image_tokenizer_info: CodebookInfo | None = None, console: Console | None = None
) -> FusionPlan:
    """Fuse two parents into the folder `config.out`, or only print the plan (`config.plan`).

    Args:
        image_tokenizer_info: codebook size and (height, width) in tokens of the image tokenizer that
            `find_image_tokenizer` names.
        console: where progress and results are printed; the plan as JSON goes to stdout.

    Raises:
        ValueError: the parents don't fit together or to their weights, `out` exists, or the disk is full.
    """
    console = console or Console(stderr=config.json)
    if not config.plan:
        if config.out is None:
            raise ValueError("give the folder to write with --out, or only look at the plan with --plan")
        refuse_existing(config.out)
    pair = make_pair(config, image_tokenizer_info)
    plan = make_plan(config, pair)
    if config.json:
        print(json.dumps(plan.to_json(), indent=1))
    elif config.plan:
        console.print(plan.table())
    for note in plan.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    if config.out is not None and not config.plan:
        write(plan, pair, config, Path(config.out), console)
    return plan


def write(plan: FusionPlan, pair: Pair, config: FuseConfig, out: Path, console: Console) -> None:
    """Write the fused folder: model, tokenizers, configs, manifest. It appears whole or not at all."""
    for parent in (pair.text, pair.image):
        parent.check_weights()
    image_tokenizer = find_image_tokenizer(config)
    console.print(plan.summary, markup=False, highlight=False, soft_wrap=True)
    with new_folder(out, bytes_needed=plan.bytes) as folder:
        write_weights(plan, pair, folder, console)
        plan.config.save_pretrained(folder)
        assert pair.text.tokenizer is not None, "join() refuses a text parent without tokenizer"
        pair.text.tokenizer.save_pretrained(folder / "tokenizer")
        if image_tokenizer:
            shutil.copytree(image_tokenizer, folder / "image_tokenizer")
        eos_id = plan.vocabulary.eos_id
        sampling = {"do_sample": True, "temperature": 1.0, "top_p": 0.9}
        write_json(folder / "generation_config.json", sampling | {"bos_token_id": eos_id, "eos_token_id": eos_id})
        manifest(plan, pair, config).save(folder, out)
    done = f"{out}: {plan.method}, stage fused, {format_bytes(plan.bytes)}"
    following = f"next: `jam prepare DOCS.jsonl --model {out} --out SHARDS`, then align it with `jam train`"
    console.print(f"{done}; {following}", markup=False, highlight=False, soft_wrap=True)


def write_weights(plan: FusionPlan, pair: Pair, folder: Path, console: Console) -> None:
    """Compute the planned tensors one at a time, in fp32 or wider, and write them."""
    planned = {tensor.name: tensor for tensor in plan.tensors}

    def compute(name: str) -> Tensor:
        tensor = planned[name]
        sources = [pair.parent(source.role).read(source.name) for source in tensor.sources]
        wide = [source.to(torch.promote_types(source.dtype, torch.float32)) for source in sources]
        return tensor.compute(*wide).to(tensor.dtype)

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("fusing", total=plan.bytes)
        write_checkpoint(folder, plan.infos, compute, on_written=lambda done: progress.advance(task, done))


def manifest(plan: FusionPlan, pair: Pair, config: FuseConfig) -> Manifest:
    """What the fused folder says of itself, and of its parents what `jam verify` needs to run them again."""
    used: dict[str, tuple[str, ...]] = {"cross": ("every", "readout", "seed"), "width": ("init",), "uniform": ()}
    options: dict[str, Any] = {name: getattr(config, name) for name in used[plan.method]}
    return Manifest(
        stage="fused",
        method=plan.method,
        options=options,
        vocabulary=plan.vocabulary.to_dict(),
        image_grid=list(plan.image_grid) if plan.image_grid else None,
        rows=asdict(plan.rows) if plan.rows else None,
        ancestors=[
            parent.ancestor | {"source": os.path.realpath(parent.folder), "rows": asdict(rows)}
            for parent, rows in ((pair.text, pair.text_rows), (pair.image, pair.image_rows))
        ],
        notes=plan.notes,
    )
