"""The command line as a person meets it: help, mistakes, and a model's whole life in six commands."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jam.cli import main
from jam.commands import COMMANDS, SUMMARIES, parse
from jam.documents import Document, Message, Text, write_documents
from jam.fusion import FuseConfig
from jam.generation import GenerationSettings
from jam.training import DataSource, TrainConfig
from support import fusion_parents, tiny


def run(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of `jam arguments...`."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as end:  # --help
        status = int(end.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`model/`, fused and never aligned, with `documents.jsonl` and pictures beside it."""
    made = tiny.model(tmp_path / "made")
    (tmp_path / "model").mkdir()
    made.save(tmp_path / "model")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    documents = []
    for number in range(8):
        tiny.picture(number, (6, 9)).save(tmp_path / "images" / f"{number}.png")
        parts = [{"type": "text", "text": str(rng.choice(tiny.SENTENCES))}]
        parts.append({"type": "image", "image": f"images/{number}.png"})
        documents.append(json.dumps({"id": str(number), "content": parts}))
    (tmp_path / "documents.jsonl").write_text("\n".join(documents))
    return tmp_path


def recipe(folder: Path, **keys: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "out": "o", "sources": [{"path": "s"}], "steps": 1} | keys))
    return path


# Help


def test_overview_names_every_command(capsys: Any) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        status, out, _ = run(capsys, *arguments)
        assert status == 0
        assert all(f"jam {command}" in out for command in SUMMARIES)


def test_the_version_is_told(capsys: Any) -> None:
    assert run(capsys, "--version") == (0, f"jam {metadata.version('jam-fusion')}\n", "")


@pytest.mark.parametrize("command", SUMMARIES)
def test_help_has_examples_that_parse(capsys: Any, command: str) -> None:
    status, out, _ = run(capsys, command, "--help")
    assert status == 0 and "examples:\n  jam " + command in out
    assert "_" not in "".join(word for word in out.split() if word.startswith("--")), "options have dashes"
    options = COMMANDS[command].parser().options
    assert [name for name, action in options.items() if not action.help] == []


@pytest.mark.parametrize(("command", "settings"), [("fuse", FuseConfig), ("train", TrainConfig)])
def test_every_setting_is_an_option_with_its_help(command: str, settings: Any) -> None:
    options = COMMANDS[command].parser().options
    for field in fields(settings):
        assert options[field.name].help and field.name in settings.__doc__
    assert all(field.name in DataSource.__doc__ for field in fields(DataSource))


def test_every_generation_setting_is_an_option() -> None:
    assert {field.name for field in fields(GenerationSettings)} <= COMMANDS["generate"].parser().options.keys()


# Mistakes in the call: status 2, one line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fuze"], "unknown command fuze; did you mean fuse?"),
        (["xyzzy"], "unknown command xyzzy; known: fuse, demo, prepare, plan, train, export"),
        (["fuse", "--txt", "a"], "unknown option --txt; did you mean --text?"),
        (["fuse", "--imag", "a"], "unknown option --imag; did you mean --image?"),  # no abbreviations
        (
            ["generate", "m", "p", "--guidence-scale=3"],
            "unknown option --guidence-scale; did you mean --guidance-scale?",
        ),
        (["train", "--warmupsteps", "3"], "unknown option --warmupsteps; did you mean --warmup-steps?"),
        (["fuse", "--text", "a"], "missing: --image"),
        (["generate"], "missing: MODEL, PROMPT"),
        (["fuse", "--text", "a", "--image", "b", "--every", "two"], "--every is 'two'; it must be a whole number"),
        (["fuse", "--text", "a", "--image", "b", "--init", "sum"], "--init is 'sum'; it must be copy or average"),
        (["eval", "m", "d", "--dtype", "fp8"], "--dtype is 'fp8'; it must be float32, bfloat16 or float16"),
        (["train", "--sources", '[{"pth": "x"}]'], "--sources, entry 1: unknown key pth; did you mean path?"),
        (["train", "--model", "m", "a.yaml"], "not expected: a.yaml; a recipe stands first"),
        (["train", "none.yaml"], "recipe none.yaml does not exist"),
    ],
)
def test_a_wrong_call_is_answered_in_one_line(capsys: Any, arguments: list[str], message: str) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"jam: {message}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sources"),
    [
        (["--sources", "a:0.5", "b", "c:2"], [("a", 0.5), ("b", 1.0), ("c", 2.0)]),
        (["--sources=a/b:3"], [("a/b", 3.0)]),
        (["--sources", "c:/shards", "x:y"], [("c:/shards", 1.0), ("x:y", 1.0)]),
        (["--sources", '[{"path": "a", "weight": 2}]'], [("a", 2.0)]),
    ],
)
def test_sources_are_folders_with_weights(arguments: list[str], sources: list[tuple[str, float]]) -> None:
    _, settings = parse(["train", "--model", "m", "--out", "o", *arguments, "--steps", "3", "--validation", "v", "w"])
    assert [(source.path, source.weight) for source in settings.sources] == sources
    assert settings.validation == ["v", "w"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fuse", "--config", "x" * 5000], 2),
        (["train", "{" * 5000], 2),
        (["export", "y" * 5000, "--out", "x"], 1),
        (["prepare", "z" * 5000, "--model", "m", "--out", "x"], 1),
    ],
)
def test_a_name_that_no_file_can_have(capsys: Any, arguments: list[str], expected: int) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (expected, "") and err.count("\n") == 1 and len(err) < 400
    assert "File name too long" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "run", "--out", "9" * 5000],
        ["train", "--steps=-" + "1" * 5000],
        ["convert-tokenizer", "7" * 5000, "--out", "x"],
    ],
)
def test_a_number_that_is_far_too_long(capsys: Any, arguments: list[str]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1 and len(err) < 200
    assert "is not a number that can be read: it has 1000 digits or more" in err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"warmupsteps": 3}, "unknown key warmupsteps; did you mean warmup_steps?"),
        ({"warmup-steps": 3}, "unknown key warmup-steps; did you mean warmup_steps?"),
        ({"config": "other.yaml"}, "unknown key config"),
        ({"sources": [{"path": "x"}, {"pth": "x"}]}, "sources, entry 2: unknown key pth; did you mean path?"),
        ({"sources": ["x"]}, "sources, entry 1 is 'x'; it must be a mapping of path, weight"),
        ({"sources": [{"path": "x", "weight": "heavy"}]}, "sources, entry 1: weight is 'heavy'; it must be a number"),
        ({"steps": "many"}, "steps is 'many'; it must be a whole number"),
        ({"checkpoint_every": "hour"}, "checkpoint_every is 'hour'; it must be a whole number or epoch"),
    ],
)
def test_a_wrong_recipe_is_answered_in_one_line(
    capsys: Any, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    status, out, err = run(capsys, "train", recipe(tmp_path, **keys))
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert run(capsys, "train", "--config", tmp_path / "recipe.yaml") == (status, out, err)


@pytest.mark.parametrize("text", ["- a\n- b\n", "steps: [1\n", "just words"])
def test_a_recipe_that_is_no_mapping(capsys: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    status, _, err = run(capsys, "train", path)
    assert status == 2 and str(path) in err and err.count("\n") == 1


def test_numbers_like_3e_5_are_numbers(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: m\nout: o\nsources: [{path: s}]\nsteps: 1\nlr: 3e-5\n")
    parser = COMMANDS["train"].parser()
    from jam.commands.arguments import read_arguments

    assert read_arguments(parser, [str(path)], recipe=True).lr == 3e-5


# Mistakes in what is given: status 1, one line


def test_what_cannot_be_done_is_answered_in_one_line(capsys: Any, folder: Path) -> None:
    model, documents = folder / "model", folder / "documents.jsonl"
    (folder / "empty.jsonl").write_text("\n")
    (folder / "broken.jsonl").write_text('{"content": []}\n{"content": \n')
    cases = [
        (["eval", folder / "none", documents], "there is no such folder"),
        (["eval", model, folder / "none.jsonl"], "none.jsonl: no such file"),
        (["eval", model, folder / "empty.jsonl"], "there are no documents"),
        (["eval", model, folder / "broken.jsonl"], "broken.jsonl:2: the record is not valid JSON"),
        (["eval", model, documents, "--json", folder / "no" / "x.json"], f"there is no folder {folder / 'no'}"),
        (["eval", model, documents, "--device", "gpu"], "device 'gpu' cannot be used"),
        (["prepare", documents, "--model", model, "--out", folder / "images"], "exists"),
        (["train", recipe(folder, model=str(model), sources=[{"path": str(folder)}], out=str(folder / "o"))], ""),
        (["generate", model, "How?", "--out", folder / "page.pdf"], "must end in .html or .md"),
        (["generate", model, "How?", "--out", folder / "no" / "page.html"], f"there is no folder {folder / 'no'}"),
        (["generate", model, " "], "the prompt is empty"),
        (["generate", model, "word " * 200], "64"),
        (["generate", model, "How?", "--top-p", "2"], "top_p is 2"),
        (["fuse", "--text", model, "--image", model], "--out"),
        (["fuse", "--text", model, "--image", model, "--out", folder / "images"], "exists"),
        (["fuse", "--text", folder / "none", "--image", model, "--plan"], "has no config.json"),
    ]
    for arguments, message in cases:
        status, out, err = run(capsys, *arguments)
        lines = [line for line in err.splitlines() if not line.startswith("note: ")]
        assert (status, out) == (1, ""), (arguments, out, err)
        assert len(lines) == 1 and lines[0].startswith(f"jam {arguments[0]}: ") and message in lines[0], (
            arguments,
            err,
        )


def test_an_interrupt_is_no_traceback(capsys: Any, folder: Path, monkeypatch: Any) -> None:
    def interrupt(settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["eval"], "run", interrupt)
    assert run(capsys, "eval", "m", "d") == (130, "", "jam eval: interrupted\n")


# What the commands do


def test_plan_as_json_is_all_of_stdout(capsys: Any, tmp_path: Path) -> None:
    fusion_parents.save_pair(tmp_path, fusion_parents.opt_config)
    parents = ("--text", tmp_path / "text", "--image", tmp_path / "image")
    status, out, err = run(capsys, "fuse", *parents, "--plan", "--json")
    plan = json.loads(out)
    assert status == 0 and "note: " in err
    assert plan["parameters"] == sum(int(np.prod(tensor["shape"])) for tensor in plan["tensors"])
    assert {"name", "shape", "dtype", "bytes", "file", "from", "operation"} == plan["tensors"][0].keys()
    status, out, _ = run(capsys, "fuse", *parents, "--plan")
    assert status == 0 and "text_tower" in out


def test_a_models_life(capsys: Any, folder: Path) -> None:
    """prepare, train by a recipe, eval, generate; each says where its result is."""
    model, documents, shards = folder / "model", folder / "documents.jsonl", folder / "shards"
    status, out, err = run(capsys, "prepare", documents, "--model", model, "--out", shards, "--device", "cpu")
    assert (status, err) == (0, "") and f"{shards}: 8 documents, 8 pictures" in out

    data = {"sources": [{"path": str(shards)}], "validation": [str(folder / "none")]}
    path = recipe(folder, model=str(model), steps=9, warmup_steps=1, **data)
    # A recipe's validation shards need not be there where they are not used.
    options = ("--out", folder / "run", "--steps", 2, "--batch-tokens=64", "--device", "cpu", "--validation", "[]")
    status, out, err = run(capsys, "train", path, *options)
    assert (status, err) == (0, "") and f"{folder / 'run' / 'model'}: the trained model, stage aligned" in out
    assert json.loads((folder / "run" / "recipe.json").read_text())["steps"] == 2
    status, _, err = run(capsys, "train", path, *options)
    assert status == 1 and "holds a finished run" in err

    trained = folder / "run" / "model"
    status, out, err = run(capsys, "eval", trained, documents, "--json", folder / "ppl.json", "--dtype", "float32")
    report = json.loads(out)
    assert status == 0 and report == json.loads((folder / "ppl.json").read_text())
    assert report["image_tokens"] == 8 * tiny.IMAGE_TOKENS and report["text_ppl"] > 1
    assert report["all_tokens"] == report["text_tokens"] + report["image_tokens"]

    page = folder / "page.html"
    status, out, err = run(capsys, "generate", trained, "a", "--out", page, "--max-new-tokens", 20)
    assert (status, out) == (0, "") and f"{page}: the answer" in err
    assert "<h2>a</h2>" in page.read_text()


def test_a_model_that_was_only_fused_says_so(capsys: Any, folder: Path) -> None:
    status, _, err = run(capsys, "generate", folder / "model", "a", "--max-new-tokens", 3)
    assert status == 0 and "never aligned: it writes no <break>" in err and "align.yaml" in err


def test_several_prompts_make_one_page(capsys: Any, folder: Path) -> None:
    page = folder / "page.md"
    prompts = ("a", "a", "How do I draw it?")
    status, _, _ = run(capsys, "generate", folder / "model", *prompts, "--out", page, "--max-new-tokens", 12)
    text = page.read_text()
    assert status == 0 and text.count("## a\n") == 2 and "## How do I draw it?" in text


def test_broken_documents_are_named_before_anything_is_written(capsys: Any, folder: Path) -> None:
    question = Document(messages=[Message("user", [Text("a")])])
    write_documents(folder / "question.jsonl", [question])
    out = folder / "shards"
    status, _, err = run(capsys, "prepare", folder / "question.jsonl", "--model", folder / "model", "--out", out)
    assert status == 1 and "question.jsonl:1: the last message" in err and not out.exists()


def test_help_of_fuse_waits_for_no_library() -> None:
    code = "import sys, jam.cli, jam.commands.fuse; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
