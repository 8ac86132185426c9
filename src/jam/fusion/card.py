"""`README.md` of a fused model: its parents and its fusion, for readers and, in its head, for the hub."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from jam.checkpoints.folders import format_bytes
from jam.fusion.hub import license_of, origin
from jam.fusion.methods import METHODS
from jam.fusion.pair import Pair
from jam.fusion.plan import FusionPlan

BODY = """
# {name}

A language model and an image-token model, fused by `jam` into one that is to write illustrated documents.
It is fused and not trained since: until it is aligned with `jam train`, it begins no picture by itself.

| | |
|---|---|
| fusion | {fusion} |
| class | `{architecture}`, {parameters:,} parameters, {bytes} |
| vocabulary | {v.text_size:,} text, {v.image_size:,} image, {v.control_size:,} control |
| layout of documents | {layout} |
| opened by | {opened_by} |

## Parents

| role | model | class | license | SHA-256 of its files |
|---|---|---|---|---|
{parents}
{notes}
## Use

```
jam prepare documents.jsonl --model {name} --out shards
jam train recipes/align.yaml --model {name} --out runs/align
jam generate runs/align/model "How do I draw a red house?" --out page.html
```
"""


def model_card(
    plan: FusionPlan, pair: Pair, name: str, options: dict[str, Any], ancestors: list[dict[str, Any]]
) -> ModelCard:
    """The card of the model `name`. It states a license when both parents state the same license."""
    licenses = [license_of(parent.folder) for parent in (pair.text, pair.image)]
    origins = [found.repository for parent in (pair.text, pair.image) if (found := origin(parent.folder))]
    library = METHODS[plan.method].library
    data = ModelCardData(
        base_model=origins or None,
        base_model_relation="merge" if origins else None,
        library_name=library,
        license=licenses[0] if licenses[0] == licenses[1] else None,
        pipeline_tag="any-to-any",
        tags=["jam", "merge", plan.method],
    )
    rows = [
        f"| {row['role']} | {row['name']} | `{row['architecture']}` | {license or 'not stated'} | `{row['sha256']}` |"
        for row, license in zip(ancestors, licenses, strict=True)
    ]
    settings = ", ".join(f"{option} {value}" for option, value in options.items())
    body = BODY.format(
        name=name,
        fusion=f"{plan.method} ({settings})" if settings else plan.method,
        architecture=plan.architecture,
        parameters=plan.parameters,
        bytes=format_bytes(plan.bytes),
        v=plan.vocabulary,
        layout=plan.vocabulary.documents_are,
        opened_by="`jam`" if library == "jam-fusion" else "`transformers`, and `jam` for documents",
        parents="\n".join(rows),
        notes="".join(f"\nNote: {note}.\n" for note in plan.notes),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")
