"""`jam fuse`: describe both parents, plan, and write the fused folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam.checkpoints import Hashes, Manifest, resumable_folder, write_json
from jam.checkpoints.checksums import checksum_of
from jam.checkpoints.folders import format_bytes
from jam.checkpoints.resume import LAST as CONFIG
from jam.checkpoints.resume import Workplace, require_free
from jam.checkpoints.tensors import KIND_OF
from jam.codec import describe_image_tokenizer
from jam.codec.files import InsideCheckpoint, OwnFolder, image_tokenizer_in
from jam.files import reading
from jam.fusion.config import FuseConfig, find_image_tokenizer
from jam.fusion.hub import locate
from jam.fusion.methods import METHODS, find_method
from jam.fusion.pair import CodebookInfo, Pair, join
from jam.fusion.parents import Parent
from jam.fusion.plan import FusionPlan

if TYPE_CHECKING:
    from jam.fusion.execute import FileHashes

Say = Callable[[str], None]
OnBytes = Callable[[int, int], None]


def silent(line: str) -> None:
    """Says nothing."""


def check_options(config: FuseConfig) -> None:
    """Raises ValueError for options of other methods, and for values out of range."""
    defaults = {field.name: field.default for field in fields(FuseConfig)}
    own = find_method(config.method).options
    for method in METHODS.values():
        for name in method.options:
            if name not in own and (value := getattr(config, name)) != defaults[name]:
                raise ValueError(
                    f"--{name} {value}: only {method.name} fusion has it; leave it out of --method {config.method}"
                )
    if config.every < 0:
        raise ValueError(f"--every is {config.every}; it must be 0 (no cross blocks) or more")
    if config.shard_mb <= 0:
        raise ValueError(f"--shard-mb is {config.shard_mb:g}; it must be above 0")


def make_pair(config: FuseConfig, image_tokenizer_info: CodebookInfo | None = None) -> Pair:
    """Both parents with their joint vocabulary. Raises ValueError when the parents do not fit together."""
    parents = {}
    for place, role in ((config.text, "text"), (config.image, "image")):
        folder = locate(place, role, weights=not config.plan)
        with reading(f"the {role} parent {folder}", "get its config and tokenizer anew", passing=ValueError):
            parents[role] = Parent.describe(folder, role)
    with _of_both(config):
        return join(
            parents["text"],
            parents["image"],
            context=config.context,
            image_tokenizer=image_tokenizer_info,
            image_codes=config.image_codes,
            image_start=config.image_start,
            sentinels=config.sentinels,
            layout=config.layout,
            kind=KIND_OF[config.dtype] if config.dtype else None,
            plan_only=config.plan,
        )


def _of_both(config: FuseConfig) -> AbstractContextManager[None]:
    """Turns errors from values of any kind in both parents' configs, tokenizers and manifests into ValueErrors."""
    parents = f"what the parents {config.text} and {config.image} say of themselves"
    return reading(parents, "get the configs and tokenizers of both anew", passing=ValueError)


def make_plan(config: FuseConfig, pair: Pair) -> FusionPlan:
    """The plan of fusing a pair. Raises ValueError when the method cannot fuse the pair."""
    with _of_both(config):
        method = find_method(config.method)
        if not method.reads_two_tokenizers:
            pair.require_one_tokenizer(config.method)
        return method.plan(pair, config)


def fuse(
    config: FuseConfig,
    image_tokenizer_info: CodebookInfo | None = None,
    *,
    say: Say = silent,
    on_bytes: OnBytes | None = None,
    hashes: Hashes | None = None,
) -> FusionPlan:
    """Fuse two parents into the folder `config.out`, or only plan it (`config.plan`); returns the plan.

    Args:
        image_tokenizer_info: codebook size and (height, width) in tokens of the image tokenizer; default: from the
            folder that `find_image_tokenizer` finds.
        say: is called with lines: notes of the plan, warnings, the result.
        on_bytes: is called with the bytes written since its last call, and the bytes of all tensors.
        hashes: hashes of the parents' files that are known or being computed.

    Raises:
        ValueError: the parents do not fit together or do not fit their weights, `out` exists, or the disk is full.
    """
    check_options(config)
    if not config.plan:
        if config.out is None:
            raise ValueError("give the folder to write with --out, or only look at the plan with --plan")
        require_free(Path(os.path.abspath(config.out)))
    if image_tokenizer_info is None and (folder := find_image_tokenizer(config)):
        described = describe_image_tokenizer(folder)
        image_tokenizer_info = described.codebook_size, described.grid
    pair = make_pair(config, image_tokenizer_info)
    plan = make_plan(config, pair)
    if config.out is not None and not config.plan:
        for note in plan.notes:
            say(f"note: {note}")
        with hashes or Hashes() as known:
            write(plan, pair, config, Path(os.path.abspath(config.out)), known, say, on_bytes)
    return plan


def write(
    plan: FusionPlan,
    pair: Pair,
    config: FuseConfig,
    out: Path,
    hashes: Hashes,
    say: Say = silent,
    on_bytes: OnBytes | None = None,
) -> None:
    """Write the fused folder, whole or not at all; files that a killed run finished are kept."""
    from jam.fusion.execute import fingerprint, write_weights  # which import torch

    started = time.monotonic()
    for parent in (pair.text, pair.image):
        parent.check_weights()
    folder = find_image_tokenizer(config)
    image_tokenizer = image_tokenizer_in(folder) if folder else None
    if isinstance(image_tokenizer, OwnFolder) and (problem := image_tokenizer.problem()):
        if not (config.encode_only and image_tokenizer.only_encodes):
            hint = ", or go without, with --encode-only" if image_tokenizer.only_encodes else ""
            raise ValueError(f"{problem}; take a whole one{hint}")
        say(f"warning: {problem}; nobody can see the pictures that this model writes")
    say(plan.summary)
    needed = plan.bytes + (image_tokenizer.bytes if image_tokenizer else 0)
    options = {name: value for name in METHODS[plan.method].options if (value := getattr(config, name)) is not None}
    key = fingerprint(plan, pair, options | {"shard_mb": config.shard_mb})
    with resumable_folder(out, key, needed) as work:
        if work.journal.shards:
            say(f"going on: {len(work.journal.shards)} finished files of an earlier run are checked and kept")
        try:
            found, checksums = write_weights(plan, pair, work, config.max_shard_bytes, hashes, on_bytes)
        except KeyboardInterrupt:
            if work.journal.shards:
                say(f"{len(work.journal.shards)} finished files are kept; the same command goes on from there")
            raise
        write_description(plan, pair, work, image_tokenizer, out, options, found, checksums)
    seconds = time.monotonic() - started
    done = f"{out}: {plan.method}, stage fused, {format_bytes(plan.bytes)}"
    rate = f"{seconds:.1f} s, {format_bytes(plan.bytes / seconds)}/s"
    say(f"{done} in {rate}; next: `jam prepare DOCS.jsonl --model {out} --out SHARDS`, then align it with `jam train`")


def write_description(
    plan: FusionPlan,
    pair: Pair,
    work: Workplace,
    image_tokenizer: OwnFolder | InsideCheckpoint | None,
    out: Path,
    options: dict[str, Any],
    hashes: dict[str, FileHashes],
    checksums: dict[str, str],
) -> None:
    """Write everything but the weights: configs, tokenizers, and the manifest and card of the model `out`."""
    from jam.fusion.card import model_card

    settings = plan.settings | {"transformers_version": metadata.version("transformers")}
    write_json(work.beside / CONFIG, dict(sorted(settings.items())))
    if pair.text.tokenizer is not None:
        pair.text.tokenizer.save_pretrained(work.folder / "tokenizer")
    if image_tokenizer:
        image_tokenizer.save(work.folder / "image_tokenizer")
    sampling = {"do_sample": True, "temperature": 1.0, "top_p": 0.9}
    write_json(work.folder / "generation_config.json", sampling | plan.vocabulary.special_ids)
    ancestors = [
        parent.ancestor(hashes[parent.role]) | {"rows": asdict(rows)}
        for parent, rows in ((pair.text, pair.text_rows), (pair.image, pair.image_rows))
    ]
    config = {CONFIG: checksum_of(work.beside / CONFIG)}
    manifest(plan, options, ancestors).save(work.folder, out, checksums | config)
    model_card(plan, pair, out.name, options, ancestors).save(work.folder / "README.md")


def manifest(plan: FusionPlan, options: dict[str, Any], ancestors: list[dict[str, Any]]) -> Manifest:
    """The manifest of the fused folder, with all that `jam verify` needs to run the parents again."""
    return Manifest(
        stage="fused",
        method=plan.method,
        options=options,
        vocabulary=plan.vocabulary.to_dict(),
        image_grid=list(plan.image_grid) if plan.image_grid else None,
        rows=asdict(plan.rows) if plan.rows else None,
        ancestors=ancestors,
        notes=plan.notes,
    )
