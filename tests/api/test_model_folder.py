"""A model folder: saved, loaded, damaged, and asked for a document."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import jam
from jam.checkpoints import new_folder
from jam.documents import Document, Image, Message, Text
from jam.generation import GenerationSettings
from jam.models import JointModel
from support import tiny
from support.resealed import reseal

WEIGHTS = "model.safetensors"


@pytest.fixture(params=["cross", "single"])
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    """A saved model, beside the one it was made in."""
    return saved(tmp_path, kind)


def saved(tmp_path, kind="cross"):
    made = tiny.model(tmp_path / "made", kind)
    made.settings = GenerationSettings(max_new_tokens=30, guidance_scale=2.0)
    with new_folder(tmp_path / "model") as out:
        made.save(out, "aligned")
    return tmp_path / "model"


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def test_a_saved_model_is_the_same(folder, kind, tmp_path):
    made, loaded = tiny.model(tmp_path / "made", kind), jam.load(folder)
    assert isinstance(loaded.joint, JointModel) and not loaded.joint.training
    first, second = made.joint.state_dict(), loaded.joint.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert replace(loaded.manifest, checksums={}) == replace(made.manifest, stage="aligned")
    assert loaded.settings == GenerationSettings(max_new_tokens=30, guidance_scale=2.0)
    document = Document([Text("a </s>"), Image(pixels=tiny.picture(0))])
    assert loaded.codec.encode(document) == made.codec.encode(document)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "image_tokenizer",
        "manifest.json",
        WEIGHTS,
        "tokenizer",
    ]


def test_a_model_without_its_image_tokenizer_is_not_saved(folder, tmp_path):
    """The files are copied from the folder that the model came from, which may have moved."""
    model = jam.load(folder)
    folder.rename(tmp_path / "moved")
    message = r"model/image_tokenizer: the image tokenizer is gone, .* set `folder`"
    with pytest.raises(ValueError, match=message), new_folder(tmp_path / "again") as out:
        model.save(out)
    assert not (tmp_path / "again").exists()
    model.folder = tmp_path / "moved"
    with new_folder(tmp_path / "again") as out:
        model.save(out)
    assert jam.load(tmp_path / "again").codec.image_tokenizer is not None


def test_data_types(folder):
    assert jam.load(folder).joint.dtype == torch.float32
    assert jam.load(folder, dtype="bfloat16").joint.dtype == torch.bfloat16
    assert jam.load(folder, dtype=torch.float16).joint.dtype == torch.float16


def test_generate_answers_one_prompt_or_several(folder):
    model = jam.load(folder)
    one = model.generate("How do I draw it?", seed=3)
    assert [message.role for message in one.messages] == ["user", "assistant"]
    assert one.messages[0].content == [Text("How do I draw it?")]
    assert one.extra["finish_reason"] in ("end", "max_new_tokens") and one.extra["tokens"] <= 30
    assert one.extra["images"] == sum(isinstance(part, Image) for part in one.answer)
    asked = Document(messages=[Message("user", [Image(pixels=tiny.picture(1))])])
    several = model.generate(["How do I draw it?", asked], seed=3)
    assert several[0] == one and len(several) == 2
    assert several[1].messages[0] == asked.messages[0]  # as it was given


@pytest.mark.parametrize("last", [Text("First draw"), Image(codes=[1, 2, 3, 4])])
def test_generate_continues_the_beginning_of_a_document(folder, last):
    """The result is one document, which begins as the prompt does: no turn's end, no break in the text."""
    model = jam.load(folder)
    beginning = Document([Text("a red house"), Image(codes=[5, 6, 7, 8]), last])
    prompt = model.codec.encode_prompt(beginning)
    document = model.generate(beginning, seed=3)
    assert not document.messages and document.content[0] == Text("a red house")
    assert [image.codes for image in document.images[: len(beginning.images)]] == [i.codes for i in beginning.images]
    assert isinstance(last, Image) or document.texts[1].startswith(last.text)
    assert document.extra["tokens"] <= 30 and prompt == model.codec.encode(beginning).ids[:-1]


@pytest.mark.parametrize("prompt", ["", "  "])
def test_empty_prompts_are_refused(tmp_path, prompt):
    with pytest.raises(ValueError, match="the prompt is empty"):
        jam.load(saved(tmp_path)).generate(prompt)


def test_prompts_longer_than_the_context_are_refused(tmp_path):
    with pytest.raises(ValueError, match="64"):
        jam.load(saved(tmp_path)).generate("red house " * 50)


# --- damaged folders -------------------------------------------------------------------------------------------------


def damage_missing(tensors):
    del tensors[sorted(tensors)[0]]


def damage_extra(tensors):
    tensors["left.over"] = torch.zeros(1)


def damage_shape(tensors):
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    tensors[name] = torch.zeros(3, 5)


DAMAGES = [
    (damage_missing, "1 missing"),
    (damage_extra, r"1 not expected \(left\.over\)"),
    (damage_shape, "1 of another shape"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_missing_and_extra_tensors(folder, damage, message):
    change_weights(folder, damage)
    reseal(folder)
    with pytest.raises(ValueError, match=message):
        jam.load(folder)


def test_truncated_weights(tmp_path):
    folder = saved(tmp_path)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors: not as manifest\.json says it was written"):
        jam.load(folder, check=True)
    with pytest.raises(ValueError, match="is damaged"):
        jam.load(folder)
    (folder / WEIGHTS).unlink()
    reseal(folder)
    with pytest.raises(ValueError, match="holds no weights"):
        jam.load(folder)


def test_folders_that_are_no_models(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        jam.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        jam.load(tmp_path)
    folder = saved(tmp_path, "single")
    for key, message in (("rows", "does not say the rows"), ("vocabulary", "does not say vocabulary")):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {key: None}))
        reseal(folder)
        with pytest.raises(ValueError, match=message):
            jam.load(folder)


def test_another_image_tokenizer_is_refused(tmp_path):
    folder = saved(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"image_grid": [3, 3]}))
    reseal(folder)
    with pytest.raises(ValueError, match=r"a grid of \(2, 2\), the grammar 9"):
        jam.load(folder)


def test_a_model_without_images_refuses_pictures(tmp_path):
    folder = saved(tmp_path)
    for path in (folder / "image_tokenizer").iterdir():
        path.unlink()
    (folder / "image_tokenizer").rmdir()
    reseal(folder)
    model = jam.load(folder)
    with pytest.raises(ValueError, match="there is no image tokenizer"):
        model.generate(Document([Image(pixels=tiny.picture(0))]))
