"""`jam verify`."""

from __future__ import annotations

import reprlib
from pathlib import Path

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text as RichText

from jam.api.documents import count_documents
from jam.api.verifying import verify
from jam.checkpoints import write_json
from jam.commands.arguments import Parser, add_media, add_placement, make_parser
from jam.commands.files import require_folder_of, say_left_out
from jam.console import Console
from jam.evaluation import Proof
from jam.evaluation.proof import BEYOND, DAMAGED, EXACT, MEASURED, NOT_PROMISED
from jam.evaluation.questions import NEW_IDS, Difference
from jam.evaluation.tensors import ChangedRows, ChangedSetting
from jam.fusion.methods import find_method

EXAMPLES = """
jam verify fused
jam verify fused --text llm --image image-model --dtype bfloat16 --json proof.json
jam verify fused --documents captions.jsonl text.jsonl --tolerance 1e-4
"""


def parser() -> Parser:
    description = (
        "Rerun both parents and the fused model on documents: what was kept. Exit status 1 beyond --tolerance, and "
        "where a file is not as it was written."
    )
    parser = make_parser("verify", description, EXAMPLES)
    parser.add_argument("model", type=Path, help="model folder that `jam fuse` wrote")
    for role in ("text", "image"):
        help = f"folder or hub id of the {role} parent; default: where it was when it was fused"
        parser.add_argument(f"--{role}", type=Path | None, default=None, help=help)
    help = "JSON-lines files to compare on; default: built-in drawing lessons and pictures"
    parser.add_argument("--documents", nargs="+", type=Path, default=None, help=help)
    help = "greatest difference of logits that passes; default: 0 where exactness is promised, else none"
    parser.add_argument("--tolerance", type=float | None, default=None, help=help)
    parser.add_argument("--json", type=Path | None, default=None, help="file to write the report into, too, as JSON")
    help = "most ids of each answer to ten built-in questions, which the text parent is asked, too; 0: do not ask"
    parser.add_argument("--answer_ids", type=int, default=NEW_IDS, help=help)
    add_media(parser)
    add_placement(parser)
    return parser


def run(settings: Namespace) -> int:
    console, errors = Console(highlight=False), Console(stderr=True)
    if settings.json is not None:
        require_folder_of(settings.json, "--json")
    if settings.documents:
        count_documents(settings.documents, settings.allowed_media_path)
    left_out: list[str] = []
    with errors.status("") as status:
        proof = verify(
            settings.model,
            settings.documents,
            text=settings.text,
            image=settings.image,
            device=settings.device,
            dtype=settings.dtype,
            tolerance=settings.tolerance,
            answer_ids=settings.answer_ids,
            allowed_media_path=settings.allowed_media_path,
            say=lambda text: status.update(RichText(text)),  # a string would be read as markup
            leave_out=left_out.append,
        )
    say_left_out(errors, left_out)
    console.print(heading(proof), markup=False, soft_wrap=True)
    console.print(table(proof))
    for note in proof.notes:
        kind = "" if note.startswith("warning") else "note: "
        console.print(f"{kind}{note}", markup=False, soft_wrap=True)
    if settings.json is not None:
        write_json(settings.json, proof.to_json())
        console.print(f"{settings.json}: the report", markup=False, soft_wrap=True)
    console.print(last_line(proof), markup=False, soft_wrap=True)
    return int(proof.verdict in (BEYOND, DAMAGED))


def heading(proof: Proof) -> str:
    """A line about the comparison: method, stage, data type and number of documents."""
    settings = ", ".join(f"{name} {value}" for name, value in proof.options.items())
    fusion = f"{proof.method} ({settings})" if settings else proof.method
    return f"{fusion}, stage {proof.stage}; in {proof.dtype}, {proof.way}, on {proof.pieces} documents"


def table(proof: Proof) -> Table:
    """The figures by modality, then the figures of text after pictures and of answers."""
    table = Table("")
    for column in ("text", "image"):
        table.add_column(column, justify="right")
    kept = proof.text, proof.image
    names = {parent["role"]: parent["name"] for parent in proof.parents}
    table.add_row("parent", names["text"], names["image"])
    table.add_row("positions compared", *(f"{modality.tokens:,}" for modality in kept))
    table.add_row("greatest difference of logits", *(f"{modality.max_logit_difference:.3g}" for modality in kept))
    table.add_row("tokens that change (greedy)", *(f"{modality.changed_tokens:,}" for modality in kept))
    table.add_row("perplexity of the parent", *(_figure(modality.parent_ppl) for modality in kept))
    table.add_row("perplexity of the fused model", *(_figure(modality.fused_ppl) for modality in kept))
    table.add_row("probability of new control rows", *(f"{modality.new_control_probability:.2g}" for modality in kept))
    if proof.changed_tensors:
        table.add_row(
            "tensors that are not the parent's", *(str(len(names)) for names in proof.changed_tensors.values())
        )
        rows = (
            sum(changed.rows for changed in proof.changed_rows if changed.tensor.startswith(f"{role}_tower."))
            for role in proof.changed_tensors
        )
        table.add_row("rows that are not as fusion makes them", *(f"{count:,}" for count in rows))
        table.add_row(
            "settings that are not the parent's", *(str(len(changed)) for changed in proof.changed_settings.values())
        )
    behind = proof.behind_pictures
    table.add_section()
    table.add_row(f"perplexity of {behind.tokens:,} tokens of text after pictures", _figure(behind.with_pictures), "")
    table.add_row("the same text without pictures", _figure(behind.without), "")
    if proof.answers is not None and not proof.answers.asked:  # no room, or a decoder without a class of its own
        table.add_row("answers of the parent", "none asked", "")
    elif (answers := proof.answers) is not None:
        asked = "its chat template" if answers.by_template else "plain text"
        equal = f"{answers.asked - len(answers.differences)} of {answers.asked}"
        table.add_row(f"answers that are the parent's, {answers.ids:,} greedy ids (by {asked})", equal, "")
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def last_line(proof: Proof) -> str:
    """The verdict in words."""
    difference = f"greatest difference of logits {proof.max_logit_difference:.3g}"
    if proof.verdict in (EXACT, MEASURED):
        under = f" under interpolated positions ({', '.join(proof.interpolated)})" if proof.interpolated else ""
        remarks = _unmeasured(proof) or ([] if under else ["nothing of either parent was lost"])
        return "; ".join([f"{proof.verdict}{under}: {difference}", *remarks])
    if proof.verdict == NOT_PROMISED:
        return f"not promised: {_reason(proof)}; measured instead: perplexities, {difference}"
    if proof.verdict == DAMAGED:
        files = ", ".join(proof.changed_files)
        return f"{files}: {DAMAGED}, by the manifest; get the folder anew ({difference}{_changes(proof)})"
    by = f"text {proof.text.max_logit_difference:.3g}, image {proof.image.max_logit_difference:.3g}"
    return f"{proof.verdict} {proof.tolerance:g}: {difference} ({by}){_changes(proof)}"


def _changes(proof: Proof) -> str:
    """The differences between model and parents, each after a semicolon."""
    changed = [f"{role}: {', '.join(names[:2])}" for role, names in proof.changed_tensors.items() if names]
    differs = f"; tensors that are not the parents': {'; '.join(changed)}" if changed else ""
    if proof.changed_rows:
        differs += f"; not as fusion makes them: {'; '.join(map(_rows, proof.changed_rows))}"
    if proof.answers is not None and proof.answers.differences:
        differs += f"; other answers than the text parent's: {'; '.join(map(_answer, proof.answers.differences[:2]))}"
    if settings := [f"{role}: {_settings(values)}" for role, values in proof.changed_settings.items() if values]:
        differs += f"; settings that are not the parents': {'; '.join(settings)}"
    return differs


def _rows(changed: ChangedRows) -> str:
    first = "that of all ids without a row" if changed.token is None else repr(changed.token)
    return f"{changed.tensor} ({changed.rows:,} of {changed.of:,} rows, first {first})"


def _answer(difference: Difference) -> str:
    if difference.place < 0:
        return f"{difference.question!r} has other ids than the parent's tokenizer gives it"
    return f"{difference.question!r}, id {difference.place + 1}: {difference.fused} instead of {difference.parent}"


def _settings(changed: list[ChangedSetting]) -> str:
    return ", ".join(
        f"{value.name} {reprlib.repr(value.fused)} instead of {reprlib.repr(value.parent)}" for value in changed[:2]
    )


def _unmeasured(proof: Proof) -> list[str]:
    """Reasons why a parent was not run, or tensors were not compared."""
    kinds = (("text", "text", proof.text), ("image", "a picture", proof.image))
    missing = [
        f"the {role} parent was not run, for no document has {kind}" for role, kind, kept in kinds if not kept.tokens
    ]
    if not proof.promised:
        missing.append(f"tensors were not compared, for {_reason(proof)}")
    return missing


def _reason(proof: Proof) -> str:
    reason = find_method(proof.method).not_promised(proof.options)
    return reason or f"a model of stage {proof.stage} was trained since it was fused"
