"""Two parents side by side: the joint vocabulary, and the row of every joint id in each parent's tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jam.checkpoints.tensors import KINDS
from jam.fusion.code_rows import CodebookInfo, find_image_size, find_rows, find_text_image_ids
from jam.fusion.document_layout import Conventions, find_conventions, find_layout
from jam.fusion.parents import Parent
from jam.fusion.pieces import Pieces, find_pieces
from jam.fusion.tokenizers import difference
from jam.layout import ImageLayout
from jam.vocabulary import DEFAULT_SENTINELS, ParentRows, Vocabulary

# Fields of configs that may differ between parents of uniform and width fusion. All other fields must agree, unknown
# fields too: an unlisted field may change the computation.
MAY_DIFFER = {
    *("vocab_size", "vocabulary_map", "max_position_embeddings"),  # the result has values of its own
    *("initializer_range", "init_std", "layerdrop", "use_cache", "pretraining_tp", "gradient_checkpointing"),
    *("max_window_layers", "use_sliding_window", "sliding_window_pattern"),  # `layer_types` says what they mean
    *("torch_dtype", "dtype", "rope_scaling", "rope_theta", "rope_local_base_freq"),  # `rope_parameters` has them
    *("architectures", "auto_map", "transformers_version", "name_or_path", "cache_implementation"),
    *("chunk_size_feed_forward", "id2label", "label2id", "is_encoder_decoder", "problem_type", "return_dict"),
    *("output_attentions", "output_hidden_states", "task_specific_params", "prefix", "bad_words_ids"),
}
LIKE_THEM = ("_token_id", "_token_ids", "dropout")  # fields with these ends may differ too


@dataclass(frozen=True)
class Pair:
    """Both parents and what they share.

    Args:
        text_rows, image_rows: where each parent keeps the joint ids.
        image_grid: (height, width) of an image in tokens; None in a plan that does not know it.
        kind: data type of the result, as safetensors names it.
        notes: assumptions.
        apart: difference of the parents' tokenizers, in words; None if the image parent reads text by the text
            parent's ids, or reads no text.
    """

    text: Parent
    image: Parent
    vocabulary: Vocabulary
    text_rows: ParentRows
    image_rows: ParentRows
    image_grid: tuple[int, int] | None
    kind: str
    notes: list[str]
    apart: str | None = None

    def parent(self, role: str) -> Parent:
        return {"text": self.text, "image": self.image}[role]

    @cached_property
    def text_index(self) -> np.ndarray:
        """Row of every joint id in the text parent, -1 without a row, array ``[vocabulary.size]``."""
        return self._index(self.text, self.text_rows)

    @cached_property
    def image_index(self) -> np.ndarray:
        """Row of every joint id in the image parent, as `text_index`."""
        return self._index(self.image, self.image_rows)

    def _index(self, parent: Parent, rows: ParentRows) -> np.ndarray:
        index = np.array(rows.row_of(self.vocabulary), dtype=np.int64)
        if index.max() >= parent.vocab_size:
            raise ValueError(
                f"the {parent.role} parent {parent.folder} has {parent.vocab_size} rows, but its ids go up to "
                f"{int(index.max())} ({rows}); its config.json and its manifest.json do not belong together"
            )
        return index

    @cached_property
    def pieces(self) -> Pieces | None:
        """Rows of the image parent that stand for the text ids; None unless the tokenizers differ."""
        if not self.image_rows.made_text:
            return None
        pieces = find_pieces(self.text, self.image, self.vocabulary.text_size)
        if pieces.rows.size and pieces.rows.max() >= self.image.vocab_size:
            raise ValueError(
                f"the tokenizer of the image parent {self.image.folder} has the id {int(pieces.rows.max())}, its model "
                f"{self.image.vocab_size} rows; resize the model's embeddings first"
            )
        return pieces

    def read_rows(self, role: str) -> np.ndarray:
        """The rows of a parent that the joint vocabulary uses, in joint order; with rows of pieces, in table order."""
        index = self.text_index if role == "text" else self.image_index
        if role == "text" or self.pieces is None:
            return index[index >= 0]
        return np.unique(np.concatenate([index[index >= 0], self.pieces.rows]))

    def require_one_tokenizer(self, method: str) -> None:
        """Raises ValueError unless both parents read text by the same ids."""
        if self.apart is not None:
            raise ValueError(
                f"the parents' tokenizers differ: {self.apart}; {method} fusion needs one tokenizer, since both "
                "parents' rows of a token become one; cross (--method cross) does not"
            )

    def require_one_shape(self, method: str) -> None:
        """Raises ValueError unless both parents have the same architecture and shape."""
        text, image = (parent.settings.to_dict() for parent in (self.text, self.image))
        learnt = self.text.skeleton.position_table or self.image.skeleton.position_table
        names = [name for name in dict.fromkeys([*text, *image]) if not _may_differ(name)]
        names += ["max_position_embeddings"] if learnt else []
        differing = [
            f"{name}: text {text.get(name)}, image {image.get(name)}"
            for name in names
            if text.get(name) != image.get(name)
        ]
        if differing:
            raise ValueError(
                f"the parents differ in {'; '.join(differing)}; {method} fusion needs equal ones, "
                "cross (--method cross) does not"
            )


def _may_differ(name: str) -> bool:
    is_private = name.startswith("_") and name != "_remove_final_layer_norm"
    return name in MAY_DIFFER or name.endswith(LIKE_THEM) or is_private


def join(
    text: Parent,
    image: Parent,
    image_tokenizer: CodebookInfo | None = None,
    image_codes: int | None = None,
    image_start: int | None = None,
    sentinels: int | None = None,
    layout: str = "family",
    kind: str | None = None,
    context: int | None = None,
    plan_only: bool = False,
) -> Pair:
    """Two parents with their joint vocabulary.

    A parent's manifest, else its tokenizer and the rules of `find_rows`, say in which rows it keeps text ids and image
    codes.

    Args:
        image_tokenizer: codebook size and grid of the image tokenizer.
        image_codes: number of image codes, without an image tokenizer.
        image_start: the image parent's row of image code 0, without a manifest.
        sentinels: number of CM3 mask tokens; default: the parents' number, else 512.
        layout: layout of documents (see `find_layout`).
        kind: data type of the result, as safetensors names it; default: the parents' type, the wider of two types.
        context: longest sequence in tokens; default: the shorter of the parents' longest sequences.
        plan_only: True to guess unknown facts from the configs, with a note, instead of refusing.

    Raises:
        ValueError: the parents do not fit together, or (unless `plan_only`) do not tell enough.
    """
    notes: list[str] = []
    if plan_only:
        _note_missing_tokenizers(text, image, image_tokenizer, notes)
    text = _with_tokenizer(text, image, plan_only, notes)
    text, image = _at_context(text, image, context, notes)
    image_size = find_image_size(text, image, image_tokenizer, image_codes, plan_only, notes)
    known_tokenizers = text.tokenizer is not None and image.tokenizer is not None
    apart = difference(text.text_tokens, image.text_tokens) if known_tokenizers else None
    text_rows, image_rows = find_rows(text, image, image_size, image_start, apart is None, plan_only, notes)
    if image_rows.text_size == 0 and not image_rows.made_text:
        apart = None
        notes.append("the image parent has image rows only: it reads text through one learned vector")
    elif text.tokenizer and not known_tokenizers and not plan_only:
        notes.append("the image parent has no tokenizer: that its text ids are the text parent's was not checked")
    _note_extra_tokens(text_rows, image_rows, notes)
    known = [parent.manifest.vocabulary for parent in (image, text) if parent.manifest and parent.manifest.vocabulary]
    if sentinels is None:
        sentinels = next((vocabulary["sentinels"] for vocabulary in known), DEFAULT_SENTINELS)
    named = find_text_image_ids(text, image, text_rows, image_rows)
    reads_text, frames = image_rows.text_size > 0 or image_rows.made_text, None
    if image_size and reads_text:
        frames = find_layout(text, image, apart is None, layout, plan_only, notes)
    eos_id = _eos_id(text, plan_only)
    chat = Conventions() if frames else find_conventions(text, eos_id, layout, notes)
    vocabulary = Vocabulary(
        text_rows.text_size, image_size, eos_id, sentinels, named, frames, chat.begin, chat.ends, chat.chat_template
    )
    for parent in (text,) if apart else (text, image):
        if parent.manifest and parent.manifest.vocabulary:
            _require_same_text(parent.manifest.vocabulary, vocabulary)
    grid = _image_grid(image, image_tokenizer)
    if grid is None and not plan_only:
        raise ValueError("how many tokens an image has is not known; give the image tokenizer with --image-tokenizer")
    if frames is not None and grid is not None:
        frames.write_opening(grid)  # refuses a size that the layout cannot write
    room = min(parent.settings.max_position_embeddings for parent in (text, image))
    if grid is not None and 1 + _length(grid, frames) > room:  # the document's first id and a picture
        notes.append(
            f"a picture has {grid[0] * grid[1]:,} tokens and does not fit into the context of {room:,}; --context "
            "interpolates positions"
        )
    for parent in (text, image):
        if len(parent.kinds) > 1 and kind is None:
            _mixed_kinds(parent, plan_only, notes)
    kind = kind or _wider(text.kind, image.kind)
    return Pair(text, image, vocabulary, text_rows, image_rows, grid, kind, notes, apart)


def _at_context(text: Parent, image: Parent, context: int | None, notes: list[str]) -> tuple[Parent, Parent]:
    """The parents, with positions for sequences of `context` tokens."""
    lengths = {parent.role: parent.settings.max_position_embeddings for parent in (text, image)}
    shorter, longer = sorted(lengths, key=lambda role: lengths[role])
    if context is None:
        if lengths[shorter] < lengths[longer]:
            notes.append(
                f"the context is the {shorter} parent's, {lengths[shorter]:,} tokens; the {longer} parent has "
                f"{lengths[longer]:,} (--context interpolates positions)"
            )
        return text, image
    if context < lengths[shorter]:
        raise ValueError(
            f"--context {context}: the text parent takes {lengths['text']} tokens and the image parent "
            f"{lengths['image']}; a fusion makes nothing shorter; leave the option out"
        )
    for role, length in lengths.items():
        if length < context:
            notes.append(
                f"positions of the {role} parent are interpolated from {length:,} to {context:,}: without training "
                "it is no longer what it was"
            )
    return text.stretched(context), image.stretched(context)


def _note_extra_tokens(text_rows: ParentRows, image_rows: ParentRows, notes: list[str]) -> None:
    extra = text_rows.text_size - image_rows.text_size
    if image_rows.text_size and extra:
        notes.append(
            f"the text parent's tokenizer has {extra:,} added tokens that the image parent's lacks, which "
            "has no rows for them"
        )


def _with_tokenizer(text: Parent, image: Parent, plan_only: bool, notes: list[str]) -> Parent:
    """The text parent, with the image parent's tokenizer if it has none and both tables have one size."""
    if text.tokenizer or plan_only or text.vocab_size != image.vocab_size:
        return text
    if image.tokenizer:
        notes.append("the text parent has no tokenizer; assumed: the image parent's, since their tables have one size")
        return replace(text, tokenizer=image.tokenizer)
    notes.append(
        "no parent has tokenizer files: that their rows mean the same was not checked; before the result can read or "
        "write text, copy the files into its folder tokenizer/"
    )
    return text


def _note_missing_tokenizers(
    text: Parent, image: Parent, image_tokenizer: CodebookInfo | None, notes: list[str]
) -> None:
    """Note missing tokenizers in a plan; a fusion is refused without them, or gives a model that knows only ids."""
    for parent in (text, image):
        if parent.tokenizer is None:
            notes.append(
                f"the {parent.role} parent has no tokenizer: there is no tokenizer.json or tokenizer.model in "
                f"{parent.folder} or in its tokenizer/; what is said here of its ids is assumed"
            )
    if image_tokenizer is None:
        notes.append(
            "there is no image tokenizer: the image parent has no image_tokenizer/ and holds none; without it the "
            "result reads and shows no pictures"
            + ("" if image.manifest and image.manifest.image_grid else ", and nothing tells how many codes they have")
            + "; name it with --image-tokenizer"
        )


def _wider(left: str, right: str) -> str:
    """The data type that holds the numbers of both types: fp32 for fp16 and bf16."""
    return left if left == right else max(left, right, "F32", key=lambda kind: KINDS[kind][1])


def _mixed_kinds(parent: Parent, plan_only: bool, notes: list[str]) -> None:
    """Refuse a parent of mixed data types: the user must choose between rounding some tensors and widening all."""
    kinds = ", ".join(f"{count} of {KINDS[kind][0]}" for kind, count in parent.kinds.items())
    if not plan_only:
        raise ValueError(
            f"the {parent.role} parent {parent.folder} mixes data types ({kinds} tensors); name the one of the result "
            "with --dtype"
        )
    notes.append(f"the {parent.role} parent mixes data types ({kinds} tensors); assumed: the widest, see --dtype")


def _require_same_text(values: dict[str, Any], vocabulary: Vocabulary) -> None:
    for name in ("text_size", "eos_id"):
        if values[name] != getattr(vocabulary, name):
            raise ValueError(
                f"a parent's manifest says {name} {values[name]}, the text parent {getattr(vocabulary, name)}; "
                "the parents must share a text vocabulary"
            )


def _length(grid: tuple[int, int], frames: ImageLayout | None) -> int:
    """Number of ids of a picture, with its `<break>` or its frame."""
    return 1 + grid[0] * grid[1] if frames is None else frames.length(grid)


def _image_grid(image: Parent, image_tokenizer: CodebookInfo | None) -> tuple[int, int] | None:
    trained = tuple(image.manifest.image_grid) if image.manifest and image.manifest.image_grid else None
    described = tuple(image_tokenizer[1]) if image_tokenizer else None
    if trained and described and trained != described:
        raise ValueError(
            f"the image parent was trained on images of {trained} tokens, the image tokenizer gives {described}; "
            "give the image tokenizer of this parent"
        )
    height_and_width = trained or described
    return (height_and_width[0], height_and_width[1]) if height_and_width else None


def _eos_id(text: Parent, plan_only: bool) -> int:
    if text.manifest and text.manifest.vocabulary:
        return text.manifest.vocabulary["eos_id"]
    eos_id = text.tokenizer.eos_token_id if text.tokenizer else text.settings.eos_token_id
    if isinstance(eos_id, list):
        eos_id = eos_id[0]
    if eos_id is None and not plan_only:
        raise ValueError(
            f"the tokenizer of the text parent {text.folder}, or without one its config.json, names no eos token, with "
            "which documents begin and end; set eos_token there (in config.json eos_token_id)"
        )
    return eos_id or 0
