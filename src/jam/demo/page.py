"""The demo's page: answers with the checker's verdicts, the numbers, and the steps of the demo."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from jam.demo.measure import Answers
from jam.documents import Document, Image, Text, data_uri, page
from jam.files import write_text
from jam.tutorials.checker import Verdict

STYLE = """
body { max-width: 62rem; }
.steps { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 13rem; }
figure img { width: 13rem; image-rendering: pixelated; border: 3px solid #2a9d55; border-radius: .5rem; }
figure.wrong img { border-color: #d33; }
figcaption { min-height: 3.2em; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #8884; }
"""


def write_page(path: Path, report: dict[str, Any], answers: Answers) -> None:
    """Write the page, with pictures inside it."""
    body = [
        "<h1>Drawing lessons by a fused model</h1>",
        "<p>A text parent that never saw a picture and an image parent that never saw a question, nor one picture "
        "after another, were fused by cross attention, aligned and tuned. The questions are about things in a colour "
        "that no document has for them (no document draws an orange house). A green frame: the exact checker finds "
        "every part that the texts so far name, in its colour and place, and nothing else.</p>",
        numbers(report),
        "<h2>How it was made</h2>",
        f"<p>jam demo, recipe {report['recipe']}: fuse (cross, every 2, readout exact), align "
        "on text-only lessons and captioned pictures, tune on illustrated lessons, answer "
        f"{report['prompts']} questions; {report['seconds']:.0f} seconds in all.</p>",
        "<h2>Answers</h2>",
        *(one_answer(d, v) for d, v in zip(answers.documents, answers.verdicts, strict=True)),
    ]
    write_text(path, page("Drawing lessons by a fused model", "\n".join(body), STYLE))


def numbers(report: dict[str, Any]) -> str:
    """Tables of the checker's figures and of perplexities."""
    headings = ("guidance", "well-formed", "pictures right", "by position", "texts right", "answers right")
    rows = [f"<tr>{''.join(f'<th>{heading}</th>' for heading in headings)}</tr>"]
    for run in report["by_guidance_scale"]:
        positions = " / ".join(f"{value:.0%}" for value in run["pictures_right_by_position"])
        rows.append(
            f"<tr><td>{run['guidance_scale']:g}</td><td>{run['well_formed']:.0%}</td><td>{run['pictures_right']:.1%}</td>"
            f"<td>{positions}</td><td>{run['texts_right']:.0%}</td><td>{run['answers_right']:.0%}</td></tr>"
        )
    models = ["<tr><th>perplexity</th><th>text-only lessons</th><th>pictures of captions</th></tr>"]
    for name, values in report["perplexity"].items():
        models.append(f"<tr><td>{name}</td><td>{values['text_ppl']:.3f}</td><td>{values['image_ppl']:.4f}</td></tr>")
    return (
        f"<table>{''.join(rows)}</table><table>{''.join(models)}</table>"
        f"<p>Before any training the fused model's logits differ from the parents' by at most "
        f"{report['max_logit_difference']:g}. Tuning teaches it that a picture follows every sentence; text-only "
        "lessons, which have none, are less likely then.</p>"
    )


def one_answer(document: Document, verdict: Verdict) -> str:
    """A question with its steps side by side."""
    question = " ".join(part.text for part in document.messages[0].content if isinstance(part, Text))
    figures, text, picture = [], "", 0
    for part in document.answer:
        if isinstance(part, Text):
            text = part.text.strip()
        elif isinstance(part, Image):
            kind = "" if verdict.pictures[picture] else ' class="wrong"'
            caption, source = html.escape(text), data_uri(part.load())
            figures.append(f'<figure{kind}><figcaption>{caption}</figcaption><img alt="" src="{source}"></figure>')
            text, picture = "", picture + 1
    rest = f"<p>{html.escape(text)}</p>" if text else ""
    mark = "✓" if verdict.right else "✗"
    return (
        f'<article><h3>{mark} {html.escape(question)}</h3><div class="steps">{"".join(figures)}</div>{rest}</article>'
    )
