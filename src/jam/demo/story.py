"""`jam demo`: two tiny parents, one fused model, held-out questions, and a page with its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jam.api.loading import load
from jam.api.model import Model
from jam.checkpoints import new_folder, write_json
from jam.console import Console
from jam.demo.forecast import Forecast
from jam.demo.measure import Answers, answer_prompts
from jam.demo.page import write_page
from jam.demo.setup import (
    REPORT,
    begin_folder,
    fuse_parents,
    perplexity,
    read_recipe,
    train,
    validation,
    write_corpus,
)
from jam.evaluation import compare_with_parents
from jam.generation import GenerationSettings
from jam.models import SingleDecoder
from jam.tutorials import PARENTS
from jam.tutorials.corpora import held_out_prompts

TRIAL_PROMPTS = 24
SETTINGS = GenerationSettings(temperature=0.7, top_p=0.9, image_temperature=0.7, image_top_p=0.5)


@dataclass(frozen=True)
class Lessons:
    """The demo's tuning: a recipe, numbers of documents by corpus, guidance scales, and changes to the recipes."""

    recipe: str
    tutorials: int
    captions: int
    texts: int
    guidance_scales: tuple[float, ...] = (1.0, 2.0)
    changes: Mapping[str, Any] = field(default_factory=dict)


SHORT = Lessons("instruct", tutorials=1_500, captions=1_000, texts=800)
LONG = Lessons("instruct-long", tutorials=9_000, captions=2_000, texts=800, guidance_scales=(1.0, 1.5, 2.0, 3.0))


def story(out: Path, prompts: int, lessons: Lessons, console: Console) -> dict[str, Any]:
    """Run the demo, and write ``index.html``, ``report.json`` and ``model/`` to `out`, in place of an earlier demo."""
    started = time.perf_counter()
    begin_folder(out)
    console.rule("1. fuse")
    model = fuse_parents(out / "fused", console, method="cross", every=2, readout="exact")
    report: dict[str, Any] = {"prompts": prompts, "recipe": lessons.recipe}
    report |= step_zero(model, console)
    console.rule("2. align and tune")
    recipes = [read_recipe(name, lessons.changes) for name in ("align", lessons.recipe)]
    tune(model, out, lessons, console, Forecast(recipes, started, console))
    report["perplexity"]["tuned"] = perplexities(model)
    console.rule("3. answer questions about things in colours that no corpus has")
    runs = answer_all(model, prompts, lessons.guidance_scales, console)
    best = runs[-1]
    report |= best.summary() | {"by_guidance_scale": [run.summary() for run in runs]}
    model.settings = replace(SETTINGS, guidance_scale=best.guidance_scale)
    with new_folder(out / "model") as folder:
        model.save(folder)
    report["seconds"] = round(time.perf_counter() - started, 1)
    write_json(out / REPORT, report)
    write_page(out / "index.html", report, best)
    show(report, best, out, console)
    return report


def answer_all(model: Model, prompts: int, scales: Sequence[float], console: Console) -> list[Answers]:
    """Answers without guidance, then with the scale that draws best on trial questions; the last run is the best."""
    trial_prompts = held_out_prompts(TRIAL_PROMPTS, seed=1)
    console.print(f"choosing the guidance scale on {TRIAL_PROMPTS} other questions")
    trials = {
        scale: answer_prompts(model, trial_prompts, replace(SETTINGS, guidance_scale=scale), console).summary()
        for scale in scales
    }
    listed = ", ".join(f"{scale:g}: {trial['pictures_right']:.1%}" for scale, trial in trials.items())
    console.print(f"pictures right by guidance scale: {listed}")
    best = max(scales, key=lambda scale: trials[scale]["pictures_right"])
    questions = held_out_prompts(prompts)
    return [
        answer_prompts(model, questions, replace(SETTINGS, guidance_scale=scale), console)
        for scale in sorted({1.0, best}, key=lambda scale: scale == best)
    ]


def step_zero(model: Model, console: Console) -> dict[str, Any]:
    """Difference of logits and perplexities of the parents and of the fused, untrained model."""
    text, image = load(PARENTS / "text", device="cpu"), load(PARENTS / "image", device="cpu")
    assert isinstance(text.joint, SingleDecoder) and isinstance(image.joint, SingleDecoder)
    texts, captions = validation("texts", model.codec), validation("captions", model.codec)
    kept = compare_with_parents(
        model.joint, text.joint, image.joint, [d.ids for d in texts[:32]], [d.ids for d in captions[:32]]
    )
    console.print(
        f"step 0: greatest difference of logits from the parents' {kept.max_logit_difference:g}; "
        f"new control rows take {kept.new_control_probability:.1%} of the probability in text"
    )
    parents = {
        "text_ppl": perplexity(text.joint, texts)["text_ppl"],
        "image_ppl": perplexity(image.joint, captions)["image_ppl"],
    }
    return {
        "max_logit_difference": kept.max_logit_difference,
        "new_control_probability": kept.new_control_probability,
        "perplexity": {"parents": parents, "fused": perplexities(model)},
    }


def perplexities(model: Model) -> dict[str, float | int | None]:
    """Text perplexity on text-only tutorials and image perplexity on captioned pictures, about held-out pairs."""
    return {
        "text_ppl": perplexity(model.joint, validation("texts", model.codec))["text_ppl"],
        "image_ppl": perplexity(model.joint, validation("captions", model.codec))["image_ppl"],
    }


def tune(model: Model, folder: Path, lessons: Lessons, console: Console, forecast: Forecast) -> None:
    """Align, then instruct-tune the model, in place."""
    data = {
        name: write_corpus(name, count, model.codec, folder / "data" / name, console)
        for name, count in (("texts", lessons.texts), ("captions", lessons.captions), ("tutorials", lessons.tutorials))
    }
    align = [(data["texts"], 0.5), (data["captions"], 0.5)]
    train(model, "align", align, folder / "align", console, forecast, **lessons.changes)
    instruct = [(data["tutorials"], 0.9), (data["captions"], 0.1)]
    train(model, lessons.recipe, instruct, folder / "instruct", console, **lessons.changes)


def show(report: dict[str, Any], best: Answers, out: Path, console: Console) -> None:
    for summary in report["by_guidance_scale"]:
        positions = ", ".join(f"{value:.0%}" for value in summary["pictures_right_by_position"])
        console.print(
            f"guidance {summary['guidance_scale']:g}: pictures right {summary['pictures_right']:.1%} (by position "
            f"{positions}), well-formed {summary['well_formed']:.0%}, answers right {summary['answers_right']:.0%}"
        )
    console.print(
        f"{out}/index.html: {len(best.documents)} answers; {out}/report.json: the numbers; "
        f'more: jam generate {out}/model "How do I draw a red house?" --out page.html',
        soft_wrap=True,
        markup=False,
    )
