"""A parent checkpoint: config, tokenizer, manifest, and tensors, which are read on request."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from jam.checkpoints import CheckpointReader, Manifest, TensorInfo, check_tensors, has_weights
from jam.checkpoints.configs import load_config, require_sizes, twin_of
from jam.checkpoints.tensors import KIND_OF, KINDS, dtype_of
from jam.files import read_json, reading
from jam.fusion.file_tokenizer import FileTokenizer
from jam.fusion.hub import origin
from jam.fusion.positions import StretchedPositions, stretched_settings
from jam.fusion.quantized import refuse_quantized, without_quantization
from jam.fusion.skeleton import Skeleton
from jam.fusion.tokenizers import TextTokens, find_pipeline, find_tokenizer
from jam.models.towers import Composite, Made, composite_of
from jam.models.towers.settings import Settings
from jam.vocabulary import ParentRows

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from jam.fusion.tables import Table

DROPOUT = ("dropout", "attention_dropout", "activation_dropout", "layerdrop")  # fields of configs


@dataclass(frozen=True)
class Parent:
    """A model to fuse: a decoder of `transformers`, alone in its folder or within a composite class.

    Args:
        role: "text" or "image"; names the parent in plans and messages.
        settings: the decoder's part of config.json: `Settings` if the family has a table of them, else a config of
            `transformers`. Dropout is 0: some configs name it by default (Emu3 0.1, OPT 0.1), the paper's parents were
            trained without, and a fusion begins as its parents.
        whole: the whole config.json; `settings` itself for a decoder alone.
        tokenizer: None if there is none, neither in the folder nor in `tokenizer/`.
        manifest: None for a model that `jam` did not write.
        trained_context: number of positions of the checkpoint, if `settings` have more (see `stretched`).
        quantization: `quantization_config`; a leftover if the weights are plain.
    """

    role: str
    folder: Path
    settings: Any
    skeleton: Skeleton
    tokenizer: Any | None
    manifest: Manifest | None
    whole: Any
    trained_context: int | None = None
    quantization: dict[str, Any] | None = None

    @classmethod
    def describe(cls, folder: str | Path, role: str) -> Parent:
        """The parent in a folder, without reading weights. Raises ValueError when no decoder there can be fused."""
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            twin = f"; its weights for transformers are {found}" if (found := twin_of(folder)) else ""
            raise ValueError(f"the {role} parent {folder} has no config.json; give the folder of a saved model{twin}")
        whole = read_settings(folder, f"the {role} parent")
        quantization = without_quantization(whole)
        settings = composite_of(whole).decoder_config(whole)
        settings.name_or_path = ""  # a path of this machine, which results must not carry
        for name in DROPOUT:
            if getattr(settings, name, None):
                setattr(settings, name, 0.0)
        skeleton, tokenizer = Skeleton(settings), find_tokenizer(folder)
        parent = cls(role, folder, settings, skeleton, tokenizer, Manifest.find(folder), whole, None, quantization)
        if quantization is not None:
            parent.refuse_quantized()
        return parent

    @cached_property
    def config(self) -> PretrainedConfig:
        """`settings` as a config of `transformers`."""
        if not isinstance(self.settings, Settings):
            return self.settings
        from transformers import AutoConfig

        return AutoConfig.for_model(**self.settings.to_dict())

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return self.settings.vocab_size

    @cached_property
    def pipeline(self) -> Tokenizer | None:
        """tokenizer.json as it is, else the pipeline of `tokenizer`; None if there is neither."""
        if isinstance(self.tokenizer, FileTokenizer):
            return self.tokenizer.backend_tokenizer
        return find_pipeline(self.folder) or getattr(self.tokenizer, "backend_tokenizer", None)

    @cached_property
    def text_tokens(self) -> TextTokens:
        """The tokens of the parent's tokenizer."""
        if self.pipeline is None:
            return TextTokens.of_tokenizer(self.tokenizer)
        return TextTokens.of_pipeline(self.pipeline)

    @cached_property
    def text_end(self) -> int:
        """1 more than the tokenizer's highest id, with special tokens that `transformers` adds to the file's tokens."""
        return max(self.text_tokens.size, 1 + max(self.tokenizer.get_vocab().values(), default=-1))  # type: ignore[union-attr]

    @property
    def rows(self) -> ParentRows | None:
        """The rows of the joint ids, from the manifest."""
        return ParentRows(**self.manifest.rows) if self.manifest and self.manifest.rows else None  # type: ignore[arg-type]

    @property
    def kinds(self) -> dict[str, int]:
        """Number of floating tensors of the model by data type; empty without weights."""
        if has_weights(self.folder):
            self.refuse_quantized()
        stored = self._stored_names.items() if has_weights(self.folder) else ()
        infos = (self._reader.infos[file_name] for name, file_name in stored if name in self._shapes)
        return Counter(info.kind for info in infos if info.is_floating_point)

    @property
    def kind(self) -> str:
        """The widest data type of the weights; without weights, the data type in the config."""
        if self.kinds:
            return max(self.kinds, key=lambda kind: KINDS[kind][1])
        return KIND_OF[str(self.settings.dtype or "float32").removeprefix("torch.")]

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.kind)

    @cached_property
    def _reader(self) -> CheckpointReader:
        return CheckpointReader(self.folder)

    @property
    def composite(self) -> Composite:
        return composite_of(self.whole)

    def stretched(self, context: int) -> Parent:
        """This parent with positions interpolated for `context` tokens; itself if it has as many positions.

        Raises:
            ValueError: the positions cannot be interpolated.
        """
        length = self.settings.max_position_embeddings
        if context <= length:
            return self
        settings = stretched_settings(self.settings, context, f"the {self.role} parent {self.folder}")
        return replace(self, settings=settings, skeleton=Skeleton(settings), trained_context=length)

    @cached_property
    def parts(self) -> dict[str, str]:
        """Tensors of the checkpoint outside the decoder: name in the whole class -> name in the files."""
        stored = (name for name in self._reader.infos if self.composite.name_of(name) is None)
        return {f"model.{name.removeprefix('model.')}": name for name in stored}

    def part_info(self, name: str) -> TensorInfo | None:
        """Shape and data type of a tensor of `parts`, None if there is no such tensor."""
        return self._reader.infos[self.parts[name]] if name in self.parts else None

    @cached_property
    def made(self) -> dict[str, Made]:
        """The decoder's tensors that the checkpoint holds in another form, or with fewer rows."""
        recipes = self.composite.made(self.whole, self._reader.infos if has_weights(self.folder) else ())
        name, length = self.skeleton.position_table, self.settings.max_position_embeddings
        if self.trained_context is None or name is None:
            return recipes
        positions = StretchedPositions.of(name, self.skeleton.shapes[name], self.trained_context, length)
        return recipes | {name: positions}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors to read: the decoder's tensors, and the sources of `made` tensors."""
        shapes = {name: shape for name, shape in self.skeleton.shapes.items() if name not in self.made}
        for recipe in self.made.values():
            shapes |= recipe.sources
        return shapes

    @cached_property
    def _stored_names(self) -> dict[str, str]:
        """Name in `_shapes` -> name in the files; some older checkpoints lack the prefix "model."."""
        known = self._shapes.keys() | self.skeleton.tied_names
        names: dict[str, str] = {}
        for stored in self._reader.infos:
            name = stored if stored in self._shapes else self.composite.name_of(stored)
            if name is not None:
                names[name if name in known else self.skeleton.prefix + name] = stored
        return names

    def refuse_quantized(self) -> None:
        """Raises ValueError when the weights are quantised, or when the config says so and there are no weights."""
        owner = f"the {self.role} parent {self.folder}"
        if self.quantization is not None and not has_weights(self.folder):
            raise ValueError(
                f"config.json of {owner} says that its weights are quantised "
                f"({self.quantization.get('quant_method', 'quantization_config')}), and they are not here to "
                "tell; give it with its weights, or take quantization_config out where they are plain"
            )
        needed = {name: stored for name, stored in self._stored_names.items() if name in self._shapes}
        refuse_quantized(owner, self._reader.infos, needed, self.quantization)

    def check_weights(self) -> None:
        """Raises ValueError unless the weights have the names, shapes and types of the config."""
        self.refuse_quantized()
        stored, tied = self._stored_names, self.skeleton.tied_names
        infos: dict[str, TensorInfo] = {}
        for name, file_name in stored.items():
            infos[name if name in self._shapes or name in tied else file_name] = self._reader.infos[file_name]
        derived = {name for name in infos if name.endswith("rotary_emb.inv_freq")}  # older checkpoints of Llama
        check_tensors(infos, self._shapes, f"the {self.role} parent {self.folder}", tied | derived)
        for name in tied & stored.keys():
            import torch

            blocks = zip(self.table(name).blocks(), self.table(self.skeleton.input_table).blocks(), strict=True)
            if not all(torch.equal(head, rows) for head, rows in blocks):
                raise ValueError(
                    f"config.json of the {self.role} parent {self.folder} says tie_word_embeddings, but {name} and "
                    f"{self.skeleton.input_table} differ; set tie_word_embeddings to false there"
                )

    def table(self, name: str) -> Table:
        """The rows of a tensor, by its name in the decoder, in the sources of a `made` tensor, or in `parts`."""
        from jam.fusion.tables import Table

        return Table(self._reader, self._stored_names.get(name) or self.parts[name])

    @property
    def files(self) -> list[Path]:
        """The files of the weights."""
        return self._reader.files

    def ancestor(self, hashes: Mapping[str, str]) -> dict[str, Any]:
        """The parent's entry in the manifest of the result.

        Args:
            hashes: SHA-256 of each of `files`, by name.
        """
        found = origin(self.folder)
        whole = hashlib.sha256(b"".join(bytes.fromhex(hashes[path.name]) for path in self.files))
        return {
            "role": self.role,
            "name": found.repository if found else self.folder.resolve().name,
            **({"revision": found.revision} if found else {}),
            "source": f"{found.repository}@{found.revision}" if found else os.path.realpath(self.folder),
            "sha256": whole.hexdigest(),
            "architecture": self.skeleton.architecture,
            "files": dict(hashes),
        }


def read_settings(folder: Path, what: str) -> Any:
    """A folder's config.json as `Settings`, or as a config of `transformers` if the family has no table of settings.

    Args:
        what: names the folder in messages.

    Raises:
        ValueError: the file is no JSON, describes an impossible model, or needs code of its own.
    """
    path = folder / "config.json"
    values = read_json(path)
    require_sizes(values, path)
    with reading(path, passing=ValueError):
        settings = Settings.of(values, f"{what} {folder}")
    if settings is not None:
        return settings
    return load_config(folder, what)
