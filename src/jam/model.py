"""A model folder, loaded: the joint model with its codec, manifest and generation settings."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, overload

import torch
from transformers import AutoConfig
from transformers.utils import logging

from jam.checkpoints import (
    CheckpointReader,
    Manifest,
    available_memory,
    require_memory,
    write_json,
)
from jam.codec import Codec, load_image_tokenizer, load_tokenizer
from jam.codec.images import IMAGE_TOKENIZER_FOLDER
from jam.codec.text import TOKENIZER_FOLDER
from jam.documents import Document, Part
from jam.generation import (
    Chat,
    Engine,
    Event,
    Finished,
    Generation,
    GenerationSettings,
    Request,
    document_of,
    filled,
    request_for,
    request_to_fill,
    settings_to_fill,
)
from jam.generation.engine import SLOTS
from jam.grammar import Grammar
from jam.models import CrossConfig, CrossForCausalLM, SingleStream, compile_layers, is_quantized, quantize
from jam.models.placement import spread_layers
from jam.models.towers import composite_of, decoder_config, family_of
from jam.vocabulary import ParentRows, Vocabulary

GENERATION_CONFIG = "generation_config.json"
MEMORY_SHARE = 0.8  # of the memory that is left, for the cache of keys and values

Beginning = str | Sequence[Part]

logging.disable_progress_bar()  # ours show the work as a whole


@dataclass
class Model:
    """What `load` returns.

    Args:
        folder: where it was loaded from.
        joint: the network (`CrossForCausalLM`, or `SingleStream` around a plain decoder).
        codec: documents to ids and back.
        manifest: what it was made from, and its stage.
        settings: defaults of `generate`.
    """

    folder: Path
    joint: CrossForCausalLM | SingleStream
    codec: Codec
    manifest: Manifest
    settings: GenerationSettings

    @overload
    def generate(self, prompts: str | Document, begin: Beginning = ..., **settings: Any) -> Document: ...
    @overload
    def generate(
        self, prompts: Sequence[str | Document], begin: Beginning = ..., **settings: Any
    ) -> list[Document]: ...
    def generate(self, prompts: Any, begin: Beginning = (), **settings: Any) -> Document | list[Document]:
        """Answer or continue one prompt, or several in one batch, with an illustrated document each.

        Args:
            prompts: a question (a string, or a document of messages), the beginning of a document (a document of
                content, continued as it is), or a list of them.
            begin: a text, or parts, that every answer begins with.
            settings: fields of `GenerationSettings`; the others come from the folder's ``generation_config.json``.

        Returns:
            For a question a document of two messages, the prompt and the answer; for a beginning the document with its
            continuation, as content. ``extra`` says why it ended (``finish_reason``) and how many tokens and pictures
            were generated.
        """
        single = isinstance(prompts, str | Document)
        chosen = replace(self.settings, **settings)
        documents = self.generate_all([prompts] if single else list(prompts), chosen, begin=begin)
        return documents[0] if single else documents

    def generate_all(
        self,
        prompts: Sequence[str | Document],
        settings: GenerationSettings,
        on_step: Callable[[Any], None] | None = None,
        begin: Beginning = (),
    ) -> list[Document]:
        """As `generate`, with whole settings and a callback for progress."""
        requests = [
            request_for(prompt, settings.for_row(index), self.codec, begin) for index, prompt in enumerate(prompts)
        ]
        generations = self.run(requests, on_step)
        return [document_of(*pair, self.codec) for pair in zip(requests, generations, strict=True)]

    def run(self, requests: Sequence[Request], on_step: Callable[[Any], None] | None = None) -> list[Generation]:
        """What the engine writes for requests, in one that is sized for them."""
        return self._sized_for(requests).run(requests, on_step=on_step)

    def stream(self, prompt: str | Document, begin: Beginning = (), **settings: Any) -> Iterator[Event]:
        """As `generate` of one prompt, event by event; the last one, `Finished`, has the document."""
        request = request_for(prompt, replace(self.settings, **settings), self.codec, begin)
        engine = self._sized_for([request])
        engine.submit(request)
        return self._events(engine, request)

    def _events(self, engine: Engine, request: Request) -> Iterator[Event]:
        for event in engine.events():
            if isinstance(event, Finished):
                event = replace(event, document=document_of(request, event.generation, self.codec))
            yield event

    def chat(self, system: str | None = None, length: int | None = None, **settings: Any) -> Chat:
        """A conversation that keeps its cache: ``chat.send("...")`` answers.

        Args:
            system: what it begins with.
            length: most ids of the whole conversation (None: the model's context); its cache is as long.
            settings: as in `generate`.

        Raises:
            ValueError: there is no memory for a cache of this length.
        """
        chosen = replace(self.settings, **settings)
        return Chat(self.engine(slots=2, length=length), self.codec, chosen, system)

    @overload
    def fill(self, documents: Document, **settings: Any) -> Document: ...
    @overload
    def fill(self, documents: Sequence[Document], **settings: Any) -> list[Document]: ...
    def fill(self, documents: Any, **settings: Any) -> Document | list[Document]:
        """Fill the gaps of a document, or of several, from what stands on both sides; settings as in `generate`.

        Raises:
            ValueError: a document has no gap, or more pictures or text than the context holds; or the settings have
                stop strings or a number of pictures.
        """
        listed = [documents] if isinstance(documents, Document) else list(documents)
        done = self.fill_all(listed, settings_to_fill(self.settings, **settings))
        return done[0] if isinstance(documents, Document) else done

    def fill_all(
        self,
        documents: Sequence[Document],
        settings: GenerationSettings,
        on_step: Callable[[Any], None] | None = None,
    ) -> list[Document]:
        """As `fill`, with whole settings and a callback for progress."""
        requests = [
            request_to_fill(document, settings.for_row(index), self.codec) for index, document in enumerate(documents)
        ]
        generations = self.run(requests, on_step)
        return [filled(document, one, self.codec) for document, one in zip(documents, generations, strict=True)]

    def engine(self, slots: int = SLOTS, length: int | None = None) -> Engine:
        """A decode engine for requests that come and go, with at most `MEMORY_SHARE` of the memory that is left.

        Args:
            slots: streams in the cache at a time: one a document, two with guidance.
            length: most ids of a stream (None: the model's context).
        """
        self.joint.eval()
        return Engine(self.joint, self.codec, slots, length, self._cache_memory())

    def _sized_for(self, requests: Sequence[Request]) -> Engine:
        self.joint.eval()
        return Engine.sized_for(self.joint, requests, self.codec, self._cache_memory())

    def _cache_memory(self) -> int | None:
        available = available_memory(self.joint.device)
        return None if available is None else int(MEMORY_SHARE * available)

    def save(
        self, folder: str | Path, stage: str | None = None, tensors: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Write a whole model folder into the existing folder `folder`.

        Args:
            tensors: in the place of the network's own, by the names that they have in `joint`.

        Raises:
            ValueError: the image tokenizer, which is copied as it is, is gone, or the weights are int8.
        """
        if is_quantized(self.joint):
            raise ValueError(f"int8 weights are for generating; load {self.folder} without int8 to save the model")
        folder, image_tokenizer = Path(folder), self.image_tokenizer_folder()
        self.joint.save_pretrained(folder, state_dict=tensors)
        self.codec.tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
        if image_tokenizer is not None:
            shutil.copytree(image_tokenizer, folder / IMAGE_TOKENIZER_FOLDER)
        write_settings(folder, self.settings, self.joint.vocabulary.eos_id)
        replace(self.manifest, stage=stage or self.manifest.stage).save(folder)

    def image_tokenizer_folder(self) -> Path | None:
        """Where the files of the image tokenizer lie; None for a model without one. Raises ValueError if they moved."""
        if self.codec.image_tokenizer is None:
            return None
        path = self.folder / IMAGE_TOKENIZER_FOLDER
        if not path.is_dir():
            raise ValueError(
                f"{path}: the image tokenizer is gone, and a model cannot be saved without its own; "
                "put it back, or set `folder` to where the model lies now"
            )
        return path


def load(
    folder: str | Path,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: Literal["auto"] | dict[str, str] | None = None,
    int8: bool = False,
    compiled: bool = False,
) -> Model:
    """Load a folder that `jam fuse` or `jam train` wrote.

    Args:
        folder: the model folder.
        device: default: the GPU if there is one, else the CPU.
        dtype: "float32", "bfloat16" or "float16"; default: float32 on the CPU, else as stored.
        device_map: "auto": layers that do not fit on the device wait in host memory, or on disk, until they are needed
            (slower; to run, not to train); or where each part is to lie, as `from_pretrained` takes it.
        int8: keep the layers' weights as int8 with a scale per output, for generating only (`models.quantize`).
        compiled: compile the layers (`models.compile_layers`): a minute or two, for many documents.

    Raises:
        ValueError: it is no model folder of jam, tensors are missing or extra, they do not fit into memory, or
            `accelerate`, which a device map needs, is not installed; or a device map with int8 or compiled layers.
    """
    if device_map is not None and (int8 or compiled):
        raise ValueError(
            f"device_map {device_map!r} with {'int8' if int8 else 'compiled layers'}: layers that come and go are "
            "neither; leave one of the two out"
        )
    folder, device = Path(folder), choose_device(device)
    codec, manifest = load_codec(folder, device), Manifest.load(folder)
    network = _load_network(folder, device, dtype, device_map)
    joint: CrossForCausalLM | SingleStream
    if isinstance(network, CrossForCausalLM):
        joint = network
    else:
        if manifest.rows is None or manifest.image_grid is None:
            raise ValueError(f"{folder}/manifest.json does not say the rows of this model; fuse the parents again")
        composite, rows = composite_of(network.config), ParentRows(**manifest.rows)
        decoder = composite.decoder_of(network) if composite.whole_class else network
        joint = SingleStream(decoder, codec.vocabulary, manifest.image_grid, rows, network)  # type: ignore[arg-type]
        joint.joint.to(device)
    if int8:
        quantize(joint)
    if compiled:
        compile_layers(joint)
    return Model(folder, joint.eval(), codec, manifest, read_settings(folder))


def load_codec(folder: str | Path, device: str | None = None) -> Codec:
    """Only what turns documents into ids and back, without the network.

    Raises:
        ValueError: it is no model folder of jam.
    """
    folder, device = Path(folder), choose_device(device)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    manifest = Manifest.load(folder)
    if manifest.vocabulary is None or manifest.image_grid is None:
        raise ValueError(f"{folder}/manifest.json does not say vocabulary and image_grid; fuse the parents again")
    vocabulary = Vocabulary.from_dict(manifest.vocabulary)
    images = folder / IMAGE_TOKENIZER_FOLDER
    return Codec(
        vocabulary,
        Grammar(vocabulary, manifest.image_grid[0] * manifest.image_grid[1], manifest.image_grid[1]),
        load_tokenizer(folder),
        load_image_tokenizer(images, device) if images.is_dir() else None,
    )


def choose_device(name: str | None) -> str:
    """A device that is there; by default the GPU if there is one. Raises ValueError for one that is not."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build of torch without CUDA
        raise ValueError(f"device {name!r} cannot be used ({str(error).splitlines()[0]}); try --device cpu") from None
    return name


def _load_network(
    folder: Path, device: str, dtype: str | torch.dtype | None, device_map: str | dict[str, str] | None
) -> Any:
    chosen: torch.dtype | None = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if chosen is None and torch.device(device).type == "cpu":
        chosen = torch.float32
    reader = CheckpointReader(folder)  # a truncated or missing file is named before anything is loaded
    if device_map is None:
        require_memory(str(folder), reader.infos.values(), chosen, device, spread=True)
    elif find_spec("accelerate") is None:
        raise ValueError(
            "a device map needs accelerate, which is not installed; install it with pip install 'jam-fusion[offload]'"
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
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
        network, info = network_class.from_pretrained(
            folder, **options, output_loading_info=True, ignore_mismatched_sizes=True, offload_folder=beside
        )
    problems = []
    for key, what in (("missing", "missing"), ("unexpected", "not expected"), ("mismatched", "of another shape")):
        if names := sorted(name if isinstance(name, str) else name[0] for name in info[f"{key}_keys"]):
            problems.append(f"{len(names)} {what} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})")
    if problems:
        raise ValueError(
            f"{folder}: the tensors do not fit its config.json: {', '.join(problems)}; "
            "use the config.json that belongs to these weights"
        )
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
    values = json.loads(path.read_text()) if path.is_file() else {}
    known = {field.name for field in fields(GenerationSettings)}
    return GenerationSettings(**{key: value for key, value in values.items() if key in known})


def write_settings(folder: Path, settings: GenerationSettings, eos_id: int) -> None:
    defaults = GenerationSettings()
    chosen = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if getattr(settings, field.name) != getattr(defaults, field.name)
    }
    base = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
    write_json(folder / GENERATION_CONFIG, base | chosen | {"bos_token_id": eos_id, "eos_token_id": eos_id})
