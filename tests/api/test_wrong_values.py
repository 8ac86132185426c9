"""Wrong values in Python: a sentence that says what is expected, not a traceback of the inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import jam
from fuzz.outcomes import JARGON
from jam.api.loading import load_codec
from jam.api.model import Model
from jam.checkpoints.devices import choose_device
from jam.documents import Document, Gap, Image, Message, Text, read_documents, write_documents
from jam.tokenizer_training import TokenizerTrainer
from support import pictures, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    made = tiny.model(tmp_path_factory.mktemp("model"))
    made.joint.eval()
    return made


def refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and not JARGON.search(str(caught.value))


@pytest.mark.parametrize("value", [None, 5, [], b"x", {}])
def test_a_folder_that_is_none(value: Any) -> None:
    refused(lambda: jam.load(value), "the model folder is .*; give its name as a string or a Path")
    refused(lambda: Document([Text("a")]).save(value), "the page of a document is .*; give its name")
    refused(lambda: list(read_documents(value)), "the file of documents is .*; give its name")
    refused(lambda: write_documents(value, []), "the file of documents is .*; give its name")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    refused(lambda: jam.load(tmp_path), "has no manifest.json: it is no model of jam; make one with `jam fuse`")
    refused(lambda: jam.load(tmp_path / "none"), "there is no such folder")
    (tmp_path / "file").write_text("x")
    refused(lambda: jam.load(tmp_path / "file"), "there is no such folder")
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    refused(lambda: jam.load(tmp_path), "is no manifest of this version of jam: 'stage' is missing")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "fp8"}, "dtype is 'fp8'; it must be one of float32, bfloat16, float16"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"device": []}, r"device \[\] cannot be used"),
        ({"device": 5.5}, "device 5.5 cannot be used"),
        ({"device": 3}, r"device 3 cannot be used \(give its name as a string, like cuda:1\)"),
        ({"device": b"cpu"}, "device b'cpu' cannot be used"),
        ({"device": ""}, "device '' cannot be used"),
        ({"device": " "}, "device ' ' cannot be used"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"device": "hpu"}, "device 'hpu' cannot be used"),
        ({"device": "9" * 5000}, "device '999.*cannot be used"),
        ({"device": "meta"}, "device 'meta' cannot be used .tensors there have no values"),
        ({"dtype": "float64"}, "dtype is 'float64'; it must be one of float32, bfloat16, float16"),
        ({"dtype": 3}, "dtype is 3; it must be one of"),
        ({"dtype": torch.int8}, "dtype is torch.int8; it must be one of"),
    ],
)
def test_places_and_data_types(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    """Of everything that takes them, before a folder is read."""
    for call in (jam.load, jam.verify):
        refused(lambda call=call: call(tmp_path, **options), words)
    if "device" in options:
        refused(lambda: load_codec(tmp_path, **options), words)


@pytest.mark.parametrize("device", ["", " ", "NaN", "cuda:99", "hpu", "meta", "-" + "1" * 30])
def test_devices_of_recipes(tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model alone, of processes that train together, and of an image tokenizer."""
    config = jam.TrainConfig("none", "out", [jam.DataSource("s")], steps=1, device=device)
    refused(lambda: jam.train(config), "device '.*' cannot be used .*; try --device cpu")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    refused(lambda: jam.train(config), "device '.*' cannot be used .*; try --device cpu")
    recipe = pictures.recipe(pictures.folder(tmp_path / "pictures"), tmp_path / "run", device=device)
    refused(lambda: TokenizerTrainer(recipe), "device '.*' cannot be used .*; try --device cpu")


def test_a_device_of_torch_is_one() -> None:
    assert choose_device(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize("value", [5, None, [], [1], [None], {}, [["a"]], b"a"])
def test_prompts_that_are_none(model: Model, value: Any) -> None:
    refused(lambda: model.generate(value), "prompts are .*; give a question, a Document, or a list of them")
    refused(lambda: model.fill(value), "documents to fill are .*; give a Document with gaps, or a list of them")
    refused(lambda: model.stream(value), "a prompt is .*; give a question as a string, or a Document")
    if value != []:
        refused(lambda: model.chat().send(value), "a message has .*; give a list of Text, Image and Gap")
        refused(lambda: model.generate("a", begin=value), "begin has .*; give a list of Text, Image and Gap")


def test_settings_that_are_none(model: Model) -> None:
    for call in (model.generate, model.stream, lambda prompt, **more: model.chat().send(prompt, **more)):
        refused(lambda call=call: call("a", temprature=1), "there is no setting temprature; did you mean temperature?")
        refused(lambda call=call: call("a", top_p=None), "top_p is None")
    refused(lambda: model.chat(temprature=1), "there is no setting temprature")
    refused(lambda: model.fill(Document([Gap("text")]), xyz=1), "there is no setting xyz; known: max_new_tokens, ")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Document(content="x"), "content has 'x'; give a list of Text, Image and Gap"),  # type: ignore[arg-type]
        (lambda: Document(content=["x"]), "content has 'x'"),  # type: ignore[list-item]
        (lambda: Document(content=None), "content has None"),  # type: ignore[arg-type]
        (lambda: Document(messages="x"), "messages are 'x'; give a list of Message"),  # type: ignore[arg-type]
        (lambda: Document(messages=[Text("a")]), "messages are .*; give a list of Message"),  # type: ignore[list-item]
        (lambda: Document(messages=[Message("user", "a")]), "content has 'a'"),  # type: ignore[arg-type]
        (lambda: Text(5), "a text is 5; it must be a string"),  # type: ignore[arg-type]
        (lambda: Gap("sound"), 'a gap is of the modality \'sound\'; it must be "text" or "image"'),  # type: ignore[arg-type]
        (lambda: Image(path=5), "path of a picture is 5; it must be a string or a Path"),  # type: ignore[arg-type]
        (lambda: Image(pixels="a.png"), "pixels of a picture is 'a.png'; it must be a picture of Pillow"),  # type: ignore[arg-type]
        (lambda: Image(codes="12"), "codes of a picture is '12'; it must be a list"),  # type: ignore[arg-type]
        (lambda: Image(codes=[1.5]), "codes of a picture have 1.5; they must be whole numbers"),  # type: ignore[list-item]
    ],
)
def test_documents_that_are_none(make: Callable[[], object], words: str) -> None:
    refused(make, words)


def test_a_path_of_a_picture_may_be_one() -> None:
    assert Image(path=Path("a") / "b.png").path == "a/b.png"  # type: ignore[arg-type]


def test_names_of_files_are_text_or_paths() -> None:
    """What one function returns, `jam.train` for example, is what the next one takes."""
    config = jam.TrainConfig(
        model=Path("fused"), out=Path("runs/a"), sources=[jam.DataSource(Path("shards/a"))], steps=9
    )
    assert (config.model, config.out, config.sources[0].path) == ("fused", "runs/a", "shards/a")
    assert jam.FuseConfig(jam.PARENTS / "text", jam.PARENTS / "image", out=Path("fused")).text == str(
        jam.PARENTS / "text"
    )
    with pytest.raises(ValueError, match="steps is PosixPath"):
        jam.TrainConfig(model="fused", out="runs/a", sources=[jam.DataSource("shards/a")], steps=Path("3"))
