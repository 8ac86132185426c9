"""What a model folder is in memory: the network with its codec, and what one does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

import torch

from jam.checkpoints import Manifest, available_memory, write_json
from jam.checkpoints.folders import TOKENIZER_FOLDER, copy_folder
from jam.checkpoints.progress import without_progress_bars
from jam.codec import Codec
from jam.codec.images import IMAGE_TOKENIZER_FOLDER
from jam.documents import Document, Part
from jam.generation import (
    Chat,
    Engine,
    EngineLoop,
    Event,
    Finished,
    Generation,
    GenerationSettings,
    Request,
    Stream,
    document_of,
    filled,
    request_for,
    request_to_fill,
    settings_to_fill,
)
from jam.generation.engine import SLOTS
from jam.models import CrossForCausalLM, SingleDecoder, is_quantized
from jam.vocabulary import Vocabulary

GENERATION_CONFIG = "generation_config.json"
MEMORY_SHARE = 0.8  # of the memory that is left, for the cache of keys and values

Beginning = str | Sequence[Part]
OnProgress = Callable[[Sequence[Stream]], None]


@dataclass
class Model:
    """What `load` returns.

    Args:
        folder: where it was loaded from.
        joint: the network (`CrossForCausalLM`, or `SingleDecoder` around a plain decoder).
        codec: documents to ids and back.
        manifest: what it was made from, and its stage.
        settings: defaults of `generate`.
    """

    folder: Path
    joint: CrossForCausalLM | SingleDecoder
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
        if not single:
            require_list(prompts, (str, Document), "prompts are", "give a question, a Document, or a list of them")
        chosen = self.settings.changed(**settings)
        documents = self.generate_all([prompts] if single else list(prompts), chosen, begin=begin)
        return documents[0] if single else documents

    def generate_all(
        self,
        prompts: Sequence[str | Document],
        settings: GenerationSettings,
        on_progress: OnProgress | None = None,
        begin: Beginning = (),
    ) -> list[Document]:
        """As `generate`, with whole settings and a callback for progress (`EngineLoop.run`)."""
        requests = [
            request_for(prompt, settings.for_row(index), self.codec, begin) for index, prompt in enumerate(prompts)
        ]
        generations = self.run(requests, on_progress)
        return [document_of(*pair, self.codec) for pair in zip(requests, generations, strict=True)]

    def run(self, requests: Sequence[Request], on_progress: OnProgress | None = None) -> list[Generation]:
        """What an engine that is sized for these requests writes for them."""
        with self._loop_for(requests) as loop:
            return loop.run(requests, on_progress)

    def stream(self, prompt: str | Document, begin: Beginning = (), **settings: Any) -> Iterator[Event]:
        """As `generate` of one prompt, event by event; the last one, `Finished`, has the document.

        Raises:
            ValueError: the request cannot be met: at once. Or the document failed (`Generation.checked`): after the
                events so far, in the place of `Finished`.
        """
        request = request_for(prompt, self.settings.changed(**settings), self.codec, begin)
        return self._events(self._loop_for([request]).submit(request), request)

    def _events(self, stream: Stream, request: Request) -> Iterator[Event]:
        with closing(iter(stream)) as events:
            for event in events:
                if isinstance(event, Finished):
                    document = document_of(request, event.generation.checked(), self.codec)
                    event = replace(event, document=document)
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
        chosen = self.settings.changed(**settings)
        return Chat(self.loop(slots=2, length=length), self.codec, chosen, system)

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
        listed = [documents] if isinstance(documents, Document) else documents
        require_list(listed, (Document,), "documents to fill are", "give a Document with gaps, or a list of them")
        done = self.fill_all(listed, settings_to_fill(self.settings, **settings))
        return done[0] if isinstance(documents, Document) else done

    def fill_all(
        self,
        documents: Sequence[Document],
        settings: GenerationSettings,
        on_progress: OnProgress | None = None,
    ) -> list[Document]:
        """As `fill`, with whole settings and a callback for progress (`EngineLoop.run`)."""
        requests = [
            request_to_fill(document, settings.for_row(index), self.codec) for index, document in enumerate(documents)
        ]
        generations = self.run(requests, on_progress)
        return [filled(document, one, self.codec) for document, one in zip(documents, generations, strict=True)]

    def loop(self, slots: int = SLOTS, length: int | None = None) -> EngineLoop:
        """A decode engine in a thread of its own, for requests that come from any thread, and go.

        Its cache takes at most `MEMORY_SHARE` of the memory that is left.

        Args:
            slots: of the cache: one a document, two with guidance. Others wait.
            length: most ids of a slot (None: the model's context).

        Raises:
            ValueError: there is no memory for a slot of this length.
        """
        self.joint.eval()
        return EngineLoop(Engine(self.joint, self.codec, slots, length, self._cache_memory()))

    def _loop_for(self, requests: Sequence[Request]) -> EngineLoop:
        self.joint.eval()
        return EngineLoop(Engine.sized_for(self.joint, requests, self.codec, self._cache_memory()))

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
        with without_progress_bars():
            self.joint.save_pretrained(folder, state_dict=tensors)
        self.codec.tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
        if image_tokenizer is not None:
            copy_folder(image_tokenizer, folder / IMAGE_TOKENIZER_FOLDER)
        write_settings(folder, self.settings, self.joint.vocabulary)
        replace(self.manifest, stage=stage or self.manifest.stage).save(folder)

    def image_tokenizer_folder(self) -> Path | None:
        """Where the files of the image tokenizer are; None for a model without one. Raises ValueError if they moved."""
        if self.codec.image_tokenizer is None:
            return None
        path = self.folder / IMAGE_TOKENIZER_FOLDER
        if not path.is_dir():
            raise ValueError(
                f"{path}: the image tokenizer is gone, and a model cannot be saved without its own; "
                "put it back, or set `folder` to where the model is now"
            )
        return path


def require_list(values: Any, kinds: tuple[type, ...], what: str, remedy: str) -> None:
    """Raises ValueError for anything but a list, with something in it, of values of these kinds."""
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{what} {values!r:.80}; {remedy}")
    if wrong := [one for one in values if not isinstance(one, kinds)]:
        raise ValueError(f"{what} a list with {wrong[0]!r:.80} in it; {remedy}")


def write_settings(folder: Path, settings: GenerationSettings, vocabulary: Vocabulary) -> None:
    defaults = GenerationSettings()
    chosen = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if getattr(settings, field.name) != getattr(defaults, field.name)
    }
    base = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
    write_json(folder / GENERATION_CONFIG, base | chosen | vocabulary.special_ids)
