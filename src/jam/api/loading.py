"""From a model folder to a `Model`, or to its codec alone."""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from jam.api.model import GENERATION_CONFIG, Model
from jam.checkpoints import CheckpointReader, Manifest, available_memory, require_memory
from jam.checkpoints.configs import load_config
from jam.checkpoints.devices import choose_device, choose_dtype
from jam.checkpoints.manifest import FILE_NAME as MANIFEST
from jam.checkpoints.progress import without_progress_bars
from jam.checkpoints.tensors import check_loaded
from jam.codec import Codec, load_image_tokenizer, load_tokenizer
from jam.codec.images import IMAGE_TOKENIZER_FOLDER
from jam.files import FileError, as_path, read_json, reading
from jam.generation import GenerationSettings
from jam.grammar import Grammar
from jam.models import CrossConfig, CrossForCausalLM, SingleDecoder, compile_layers, quantize
from jam.models.placement import spread_layers
from jam.models.towers import composite_of, decoder_config, family_of
from jam.vocabulary import ParentRows, Vocabulary


def load(
    folder: str | Path,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: Literal["auto"] | dict[str, str] | None = None,
    int8: bool = False,
    compiled: bool = False,
    check: bool = False,
) -> Model:
    """Load a folder that `jam fuse` or `jam train` wrote.

    Args:
        folder: the model folder.
        device: default: the GPU if there is one, else the CPU.
        dtype: "float32", "bfloat16" or "float16"; default: float32 on the CPU, else as stored.
        device_map: "auto": layers that do not fit on the device wait in host memory, or on disk, until they are needed
            (slower; to run, not to train); or where each part goes, as `from_pretrained` takes it.
        int8: keep the layers' weights as int8 with a scale per output, for generating only (`models.quantize`).
        compiled: compile the layers (`models.compile_layers`): a minute or two, for many documents.
        check: read the files of the weights once more, and compare their checksums, as is always done for small files.

    Raises:
        ValueError: it is no model folder of jam, a file is not as it was written, tensors are missing or extra, they
            do not fit into memory, or `accelerate`, which a device map needs, is not installed; or a device map with
            int8 or compiled layers.
    """
    if device_map is not None and (int8 or compiled):
        raise ValueError(
            f"device_map {device_map!r} with {'int8' if int8 else 'compiled layers'}: layers that come and go are "
            "neither; leave one of the two out"
        )
    folder, device, chosen = as_path(folder, "the model folder"), choose_device(device), choose_dtype(dtype)
    codec, manifest = load_codec(folder, device, check), Manifest.load(folder)
    network = _load_network(folder, device, chosen, device_map)
    joint: CrossForCausalLM | SingleDecoder
    if isinstance(network, CrossForCausalLM):
        joint = network
    else:
        if manifest.rows is None or manifest.image_grid is None:
            raise ValueError(f"{folder}/manifest.json does not say the rows of this model; fuse the parents again")
        composite = composite_of(network.config)
        decoder = composite.decoder_of(network) if composite.whole_class else network
        with reading(folder / MANIFEST, "fuse the parents again"):
            rows, grid = ParentRows(**manifest.rows), manifest.image_grid
            joint = SingleDecoder(decoder, codec.vocabulary, grid, rows, network)  # type: ignore[arg-type]
        joint.joint_rows.to(device)
    if int8:
        quantize(joint)
    if compiled:
        compile_layers(joint)
    return Model(folder, joint.eval(), codec, manifest, read_settings(folder))


def load_codec(folder: str | Path, device: str | None = None, check: bool = False) -> Codec:
    """Only what turns documents into ids and back, without the network.

    Args:
        check: compare the large files of the folder with their checksums, too.

    Raises:
        ValueError: it is no model folder of jam, or a file is not as it was written.
    """
    folder, device = as_path(folder, "the model folder"), choose_device(device)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    manifest = Manifest.load(folder)
    manifest.require_unchanged(folder, every=check)
    if manifest.vocabulary is None or manifest.image_grid is None:
        raise ValueError(f"{folder}/manifest.json does not say vocabulary and image_grid; fuse the parents again")
    with reading(folder / MANIFEST, "fuse the parents again"):
        vocabulary = Vocabulary.from_dict(manifest.vocabulary)
        height, width = manifest.image_grid
        grammar = Grammar(vocabulary, (height, width))
    tokenizer, images = load_tokenizer(folder), folder / IMAGE_TOKENIZER_FOLDER
    image_tokenizer = load_image_tokenizer(images, device) if os.path.lexists(images) else None
    try:
        return Codec(vocabulary, grammar, tokenizer, image_tokenizer)
    except ValueError as error:
        raise FileError(f"{images} does not belong to {folder / MANIFEST}: {error}; fuse the parents again") from None


def context_of(folder: str | Path) -> int | None:
    """Most positions of a model folder's network, by its config; None where the folder has none."""
    if not os.path.lexists(Path(folder) / "config.json"):
        return None
    return decoder_config(load_config(folder)).max_position_embeddings


def _load_network(
    folder: Path, device: str, chosen: torch.dtype | None, device_map: str | dict[str, str] | None
) -> Any:
    if chosen is None and torch.device(device).type == "cpu":
        chosen = torch.float32
    reader = CheckpointReader(folder)  # a truncated or missing file is named before anything is loaded
    if device_map is None:
        require_memory(str(folder), reader.infos.values(), chosen, device, spread=True)
    elif find_spec("accelerate") is None:
        raise ValueError(
            "a device map needs accelerate, which is not installed; install it with pip install 'jam-fusion[offload]'"
        )
    config = load_config(folder)
    options: dict[str, Any] = {"dtype": chosen or "auto", "local_files_only": True}
    network_class: Any = CrossForCausalLM
    if not isinstance(config, CrossConfig):
        family = family_of(decoder_config(config))
        network_class = composite_of(config).whole_class or family.model_class
        options["attn_implementation"] = family.attention
    if device_map == "auto":
        device_map = _spread(network_class, config, chosen or getattr(config, "dtype", None), device)
    if device_map is not None:
        options["device_map"] = device_map
    with TemporaryDirectory() as beside, warnings.catch_warnings():  # layers stay in our files; nothing is put beside
        warnings.filterwarnings("ignore", "The following device_map keys do not match")  # those of single tensors
        with reading(folder), without_progress_bars():
            network, info = network_class.from_pretrained(
                folder, **options, output_loading_info=True, ignore_mismatched_sizes=True, offload_folder=beside
            )
    check_loaded(info, str(folder))
    return network.to(device) if device_map is None else network


def _spread(network_class: Any, config: Any, dtype: torch.dtype | None, device: str) -> dict[str, str]:
    """A device map: the device first, then host memory, then the disk; a tenth of each is left to what is computed."""
    with torch.device("meta"):
        network = network_class(config)
    network.tie_weights()
    devices = dict.fromkeys([device, "cpu"])
    room = {name: available_memory(name) for name in devices}
    return spread_layers(
        network, {name: 2**63 if free is None else int(0.9 * free) for name, free in room.items()}, dtype
    )


def read_settings(folder: Path) -> GenerationSettings:
    """Defaults of generation in the folder's ``generation_config.json``; keys that are not ours are left to others."""
    path = folder / GENERATION_CONFIG
    values = read_json(path, {})
    known = {field.name for field in fields(GenerationSettings)}
    try:
        return GenerationSettings(**{key: value for key, value in values.items() if key in known})
    except ValueError as error:
        raise FileError(f"{path}: {error}; correct it there") from None
