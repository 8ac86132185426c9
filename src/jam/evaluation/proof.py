"""The proof of a fusion: runs of both parents and the fused model on documents, and their differences.

A cross model whose exchange is still the identity runs tower by tower: a tower of the fused folder, then (with the
tower's layers freed, and its head and hidden states kept) the parent of that tower. At most one parent, one head of the
fused model and a few hundred rows of logits are in memory; the exchange is checked in the files. Any other fused model
runs whole, and then one parent at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from jam.checkpoints import CheckpointReader, Manifest, TensorInfo, require_memory
from jam.checkpoints.configs import load_config
from jam.checkpoints.manifest import DEFAULTS
from jam.checkpoints.tensors import kind_of
from jam.codec import Encoded
from jam.data import split
from jam.evaluation.loading import exchange_is_identity, load_parent, load_tower
from jam.evaluation.parents import ROLES, find_parent, rows_of_parents
from jam.evaluation.questions import NEW_IDS, Answers, Asked, Difference, ask, differences, own_prompt
from jam.evaluation.retention import (
    Kept,
    LoneTower,
    Trace,
    compare,
    perplexity_of,
    trace,
)
from jam.evaluation.samples import Sample, pictures_of, text_behind_pictures, text_of
from jam.evaluation.tensors import ChangedRows, ChangedSetting, Changes, find_changes
from jam.fusion import Parent
from jam.fusion.document_layout import opening_of
from jam.grammar import Grammar
from jam.models import CrossConfig, JointModel, SingleDecoder
from jam.models.towers import decoder_config
from jam.vocabulary import ParentRows, Vocabulary

# Verdicts. MEASURED: nothing differs, but a parent was not run, or tensors and settings were not compared.
EXACT, MEASURED = "exact", "exact as far as measured"
BURDEN = 1.2  # factor on the perplexity of text after a picture above which a warning appears
WITHIN, BEYOND, NOT_PROMISED = "within tolerance", "beyond tolerance", "not promised"
DAMAGED = "not as it was written"


@dataclass(frozen=True)
class Behind:
    """Perplexity of the fused model on text after a picture, and on the same text without pictures."""

    tokens: int
    with_pictures: float | None
    without: float | None


@dataclass(frozen=True)
class Proof:
    """The result of `verify`.

    Args:
        promised: True if the fusion promises exactness, and the model was not trained afterwards.
        way: way of running the fused model, "tower by tower" or "whole".
        tolerance: greatest logit difference that passes; None without a promise.
        pieces: number of documents, with longer ones split into pieces that fit the context.
        parents: role, name and hash of each parent.
        text, image: comparison with each parent on the parent's modality.
        behind_pictures: perplexities of text after pictures.
        answers: comparison of answers to questions without pictures; None without questions.
        changed_tensors: by role, tensors of a parent that differ in its tower; empty without a promise.
        changed_rows: other tensors of the fused model that differ from a new fusion of the parents, likewise.
        changed_settings: by role, fields of a tower's config that differ from a new fusion, likewise.
        changed_files: names of files with another checksum than the manifest's.
        interpolated: by role, (from, to) numbers of interpolated positions of a parent, in the fusion and here.
        notes: sentences for the reader.
    """

    method: str
    options: dict[str, Any]
    stage: str
    promised: bool
    way: str
    dtype: str
    tolerance: float | None
    pieces: int
    parents: list[dict[str, str]]
    text: Kept
    image: Kept
    behind_pictures: Behind
    answers: Answers | None = None
    changed_tensors: dict[str, list[str]] = field(default_factory=dict)
    changed_rows: list[ChangedRows] = field(default_factory=list)
    changed_settings: dict[str, list[ChangedSetting]] = field(default_factory=dict)
    changed_files: list[str] = field(default_factory=list)
    interpolated: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def max_logit_difference(self) -> float:
        return max(self.text.max_logit_difference, self.image.max_logit_difference)

    @property
    def verdict(self) -> str:
        """The verdict; with a tolerance of 0, all tensors and settings, used by a document or not, must be as fused."""
        if self.changed_files:
            return DAMAGED
        if self.tolerance is None:
            return NOT_PROMISED
        changed = (*self.changed_tensors.values(), self.changed_rows, *self.changed_settings.values())
        changed += (self.answers.differences,) if self.answers is not None else ()
        if self.max_logit_difference == 0 and not any(changed):
            return EXACT if self.promised and self.text.tokens and self.image.tokens else MEASURED
        return WITHIN if self.tolerance > 0 and self.max_logit_difference <= self.tolerance else BEYOND

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "max_logit_difference": self.max_logit_difference} | asdict(self)


@dataclass(frozen=True)
class _Samples:
    text: list[Sample]
    image: list[Sample]
    behind: list[Sample]
    without: list[Sample]  # the text of `behind`, without pictures

    @classmethod
    def of(cls, pieces: Iterable[Encoded], grammar: Grammar) -> _Samples:
        """The samples of pieces. Raises ValueError if there is nothing to measure."""
        samples = cls([], [], [], [])
        for piece in pieces:
            ids, start = piece.ids, piece.main_start
            samples.text.extend(filter(None, [text_of(ids, grammar, start)]))
            samples.image.extend(filter(None, [pictures_of(ids, grammar, start)]))
            if (both := text_behind_pictures(ids, grammar, start)) is not None:
                samples.behind.append(both[0])
                samples.without.append(both[1])
        if not samples.text and not samples.image:
            raise ValueError("there is nothing to measure: the documents have neither text nor pictures")
        return samples


@dataclass(frozen=True)
class _Case:
    """The models and settings of a `verify`."""

    manifest: Manifest
    config: PretrainedConfig
    reader: CheckpointReader
    parents: dict[str, Parent]
    rows: dict[str, ParentRows]
    grammar: Grammar
    device: str
    dtype: torch.dtype
    stored: torch.dtype
    say: Callable[[str], None]
    asked: list[Asked]
    found: list[Difference]

    def check_memory(self, parts: Mapping[str, list[TensorInfo]]) -> None:
        """Raises ValueError if a part of the fused model, or its tables with the parent, do not fit into memory."""
        steps = []
        for role, infos in parts.items():
            tables = [info for info in infos if info.shape[:1] >= (self.grammar.vocabulary.text_size,)]
            shapes = self.parents[role].skeleton.shapes.values()
            steps += [infos, tables + [TensorInfo(shape, kind_of(self.dtype)) for shape in shapes]]
        largest = max(steps, key=lambda infos: sum(info.count for info in infos))
        require_memory(f"verifying {self.reader.folder}", largest, self.dtype, self.device)

    def towers(self, samples: _Samples) -> tuple[Kept, Kept, Behind]:
        assert isinstance(self.config, CrossConfig)
        named = {role: f"{role}_tower." for role in ROLES}
        self.check_memory(
            {role: [i for name, i in self.reader.infos.items() if name.startswith(named[role])] for role in ROLES}
        )
        kept = {}
        for role in ROLES:
            self.say(f"running the {role} tower")
            tower = load_tower(self.reader, self.config, role, self.device, self.dtype)
            alone = LoneTower(tower, image=role == "image")
            traced = trace(alone, samples.image if role == "image" else samples.text, tower)
            if role == "text":
                behind = self.behind(partial(trace, alone), samples)
                self.found.extend(differences(alone, self.asked, self.grammar))
            tower.drop_all_but_head()
            kept[role] = self.compare(traced, role)
            del tower, alone, traced
        return kept["text"], kept["image"], behind

    def whole(self, samples: _Samples, load_whole: Callable[[torch.dtype], JointModel]) -> tuple[Kept, Kept, Behind]:
        infos = list(self.reader.infos.values())
        self.check_memory(dict.fromkeys(ROLES, infos))
        self.say("running the fused model")
        fused = load_whole(self.dtype)
        traced = {
            "text": trace(fused, samples.text, fused.tower_of("text")),
            "image": trace(fused, samples.image, fused.tower_of("image")),
        }
        behind = self.behind(partial(trace, fused), samples)
        self.found.extend(differences(fused, self.asked, self.grammar))
        fused.drop_all_but_heads()
        return self.compare(traced["text"], "text"), self.compare(traced["image"], "image"), behind

    def behind(self, run: Callable[[Sequence[Sample]], Trace], samples: _Samples) -> Behind:
        with_pictures, tokens = perplexity_of(run(samples.behind), self.grammar)
        without, _ = perplexity_of(run(samples.without), self.grammar)
        return Behind(tokens, with_pictures, without)

    def compare(self, traced: Trace, role: str) -> Kept:
        gc.collect()  # frees dropped layers
        self.say(f"running the {role} parent")
        return compare(traced, self.load_parent(role), self.grammar, image=role == "image")

    def load_parent(self, role: str) -> SingleDecoder:
        assert self.manifest.image_grid is not None
        return load_parent(
            self.parents[role],
            self.grammar.vocabulary,
            self.manifest.image_grid,
            self.rows[role],
            self.device,
            self.dtype,
            made_in=self.stored,
        )

    def ask(self, questions: Mapping[str, list[int]], new_ids: int) -> Answers:
        """Let the text parent answer; a later run of the fused model adds the differences."""
        vocabulary = self.grammar.vocabulary
        prompts = {}
        for question, ids in questions.items():
            own = own_prompt(self.parents["text"], question, vocabulary)
            if own is not None and own != ids:
                self.found.append(Difference(question, -1))
            else:
                prompts[question] = ids
        self.check_memory({"text": []})
        self.say("asking the text parent")
        self.asked.extend(ask(self.load_parent("text"), prompts, vocabulary, new_ids))
        count = sum(len(entry.answer) for entry in self.asked)
        asked = len(self.asked) + len(self.found)
        return Answers(asked, count, vocabulary.chat_template is not None, self.found)


def verify(
    folder: str | Path,
    documents: Sequence[Encoded],
    grammar: Grammar,
    load_whole: Callable[[torch.dtype], JointModel],
    parents: Mapping[str, str | Path | None] | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    questions: Mapping[str, list[int]] | None = None,
    new_ids: int = NEW_IDS,
    say: Callable[[str], None] = lambda what: None,
) -> Proof:
    """The proof that compares a fused folder with its parents on documents; longer ones are split as in training.

    In messages only the answer is measured, as in `evaluate`.

    Args:
        documents: documents encoded by the fused folder's codec.
        grammar: grammar of the fused model.
        load_whole: function that loads the fused model in a data type; called if the towers cannot run one by one.
        parents: folders or hub ids of the "text" and the "image" parent; None: their places at the time of the fusion.
        dtype: data type of the weights in memory; None: float32 on the CPU, otherwise as stored.
        tolerance: greatest logit difference that passes; None: 0 if exactness is promised.
        questions: questions without pictures, with their ids by the fused folder's codec.
        new_ids: largest number of ids of an answer.
        say: function that gets the name of each step.

    Raises:
        ValueError: the folder was not fused, a parent is not found or is not the manifest's, a document does not fit,
            or there is too little memory.
    """
    manifest, reader = Manifest.load(folder), CheckpointReader(folder)
    config = load_config(folder)
    vocabulary, context = grammar.vocabulary, decoder_config(config).max_position_embeddings
    pieces = [piece for document in documents for piece in split(document, context + 1, vocabulary)]
    samples = _Samples.of(pieces, grammar)
    found = {role: find_parent(folder, manifest, role, (parents or {}).get(role), say) for role in ROLES}
    if fused_for := manifest.options.get("context"):
        found = {role: parent.stretched(fused_for) for role, parent in found.items()}
    stored = next(info.dtype for info in reader.infos.values() if info.is_floating_point)
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else stored)
    rows = rows_of_parents(folder, manifest, config)
    case = _Case(manifest, config, reader, found, rows, grammar, device, dtype, stored, say, [], [])
    exact = isinstance(config, CrossConfig) and config.readout == "exact"
    promised = exact and manifest.stage == "fused"
    changes = Changes({}, [], {})
    if promised:
        assert isinstance(config, CrossConfig)
        say("comparing settings and tensors")
        changes = find_changes(reader, config, found, stored)
    say("comparing files with their checksums")
    changed_files = manifest.changed(folder)
    answers = case.ask(questions, new_ids) if questions else None
    towers = exact and exchange_is_identity(reader)
    text, image, behind = case.towers(samples) if towers else case.whole(samples, load_whole)
    return Proof(
        method=manifest.method or "",
        options=manifest.options,
        stage=manifest.stage,
        promised=promised,
        way="tower by tower" if towers else "whole",
        dtype=str(dtype).removeprefix("torch."),
        tolerance=0.0 if tolerance is None and promised else tolerance,
        pieces=len(pieces),
        parents=[{key: entry[key] for key in ("role", "name", "sha256")} for entry in manifest.ancestors],
        text=text,
        image=image,
        behind_pictures=behind,
        answers=answers,
        changed_tensors=changes.tensors,
        changed_rows=changes.rows,
        changed_settings=changes.settings,
        changed_files=[name for name in changed_files if name != DEFAULTS],
        interpolated={
            role: (parent.trained_context, parent.config.max_position_embeddings)
            for role, parent in found.items()
            if parent.trained_context is not None
        },
        notes=[
            *_notes(found, stored, dtype, samples),
            *_outdated(found["text"], vocabulary),
            *_of_files(manifest, changed_files),
            *_warnings(behind),
        ],
    )


def _outdated(text: Parent, vocabulary: Vocabulary) -> list[str]:
    """A note if an earlier version fused the folder, with another beginning of documents than the text parent's."""
    if text.tokenizer is None or text.manifest is not None or vocabulary.layout is not None:
        return []
    if vocabulary.chat_template is not None or vocabulary.begin_ids == opening_of(text.tokenizer):
        return []
    return [
        "documents of this folder do not begin as the text parent's tokenizer begins a text: an earlier version fused "
        "it; fuse the parents again, and the language model does better"
    ]


def _of_files(manifest: Manifest, changed: list[str]) -> list[str]:
    """Notes about the folder's files other than damage."""
    if not manifest.checksums:
        return ["an earlier version fused this folder, without checksums: damaged files are not noticed as such"]
    return [f"warning: {DEFAULTS} was changed since the folder was written"] if DEFAULTS in changed else []


def _warnings(behind: Behind) -> list[str]:
    """A warning if text after pictures has a much greater perplexity."""
    if not (behind.with_pictures and behind.without) or behind.with_pictures <= BURDEN * behind.without:
        return []
    return [
        f"warning: behind a picture the same text has {behind.with_pictures / behind.without:.3g} times the perplexity "
        f"({behind.with_pictures:.4g}, without pictures {behind.without:.4g}): the text parent reads the picture's ids "
        "as text that means nothing; alignment teaches it otherwise"
    ]


def _notes(parents: Mapping[str, Parent], stored: torch.dtype, dtype: torch.dtype, samples: _Samples) -> list[str]:
    notes = []
    for role, parent in parents.items():
        if parent.trained_context is not None:
            notes.append(
                f"positions of the {role} parent were interpolated from {parent.trained_context:,} to "
                f"{parent.config.max_position_embeddings:,}: it is run with the same ones, not as it was trained"
            )
        if dtype.itemsize > stored.itemsize and parent.dtype.itemsize > stored.itemsize:
            names = [str(kind).removeprefix("torch.") for kind in (parent.dtype, stored)]
            notes.append(
                f"the {role} parent is stored in {names[0]}, the fused model in {names[1]}: the difference has that "
                f"rounding in it; --dtype {names[1]} rounds both alike"
            )
    for role, measured in (("text", samples.text), ("image", samples.image)):
        if not measured:
            kind = "text" if role == "text" else "a picture"
            notes.append(f"no document has {kind}: the {role} parent was not run on any")
    return notes
