"""Pairs fused in the layout of the image parent's family: kept in the folder, verified, and written by the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import jam
from jam.api.model import Model
from jam.checkpoints import Manifest
from jam.cli import main
from jam.documents import Document, Image, Text, write_documents
from jam.generation import Engine, GenerationSettings
from jam.generation.guidance import guide
from jam.grammar import State
from support import layouts, tiny
from support.layout_pairs import CODES, GRIDS, run, save_pair
from support.writing import begin_pictures

FAMILIES = list(layouts.LAYOUTS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fused folders of every family, in its layout."""
    folders = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(family)
        save_pair(family, folder)
        plan = run(folder, every=1, **({"layout": family} if family == "lumina-mgpt" else {}))
        assert f"layout of documents: {family}" in plan.summary
        folders[family] = folder / "out"
    return folders


def load(folder: Path, opens: float = 1000.0) -> Model:
    """A fused folder that begins pictures; it was never aligned."""
    model = jam.load(folder, device="cpu")
    begin_pictures(model, opens)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_is_kept(family: str, pairs: dict[str, Path], tmp_path: Path) -> None:
    """In manifest and config; a model that is saved again has it, too."""
    out = pairs[family]
    named = CODES.get(family, 8) if family in layouts.NAMED else 0
    expected = layouts.LAYOUTS[family].resolve(layouts.tokenizer(family, named))
    model = jam.load(out, device="cpu")
    (tmp_path / "again").mkdir()
    model.save(tmp_path / "again", stage="aligned")
    for folder in (out, tmp_path / "again"):
        model = jam.load(folder, device="cpu")
        assert model.joint.vocabulary.layout == model.codec.vocabulary.layout == expected
        assert model.joint.grammar == model.codec.grammar and model.joint.grammar.grid == GRIDS.get(family, (2, 2))
        assert Manifest.load(folder).vocabulary["layout"]["name"] == family  # type: ignore[index]
    assert f"| layout of documents | {family} |" in (out / "README.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_lost(family: str, pairs: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    """Texts, pictures in their frames and texts behind pictures; where documents say sizes, of two sizes."""
    height, width = GRIDS.get(family, (2, 2))
    pictures = [Image(codes=[number % 8 for number in range(height * width)])]
    if family in ("emu3", "lumina-mgpt"):
        pictures.append(Image(codes=list(range(8)), grid=(2, 4)))
    parts = [part for picture in pictures for part in (Text("a red house"), picture)]
    documents = tmp_path / "documents.jsonl"
    write_documents(documents, [Document([*parts, Text("draw it")]), Document([Text("How do I draw it?")])])
    tolerance = ["--tolerance", "1e-5"] if family == "janus" else []  # its rows are made in another order of sums
    words = ["verify", pairs[family], "--documents", documents, "--device", "cpu", "--answer-ids", 4, *tolerance]
    assert main([str(word) for word in words]) == 0, capsys.readouterr()
    told = capsys.readouterr().out
    decoder_alone = family in ("chameleon", "lumina-mgpt")  # which no class of transformers is
    assert ("none asked" in told) == decoder_alone and ("10 of 10" in told) != decoder_alone
    assert "after pictures" in told


@pytest.mark.parametrize("family", FAMILIES)
def test_every_picture_is_whole_and_framed(family: str, pairs: dict[str, Path]) -> None:
    model = load(pairs[family])
    v, (height, width) = model.codec.vocabulary, GRIDS.get(family, (2, 2))
    assert v.layout is not None
    beginning = Document([Text("a"), Image(codes=[1] * height * width), Text("b")])
    prompts = [model.codec.encode_prompt(prompt) for prompt in ("draw it", Document([Text("a house")]), beginning)]
    room = 2 * v.layout.length((height, width)) + 4
    chosen = GenerationSettings(max_images=2, max_new_tokens=room, guidance_scale=2.0)
    for number, (prompt, one) in enumerate(zip(prompts, Engine(model.joint).run(prompts, [chosen] * 3), strict=True)):
        whole = [*prompt, *one.new_ids]
        frames = v.layout.frames(whole)
        assert one.images == 2 and len(frames) == 2 + (number == 2)
        for frame in frames:
            codes = [token for token in whole[frame.first : frame.close] if v.is_image(token)]
            assert whole[frame.start : frame.end] == v.layout.write(codes, (height, width))
        states = _states(model, prompt, one.new_ids)
        assert {p for p, state in zip(one.log_probs, states, strict=True) if state is State.FRAME} == {0.0}
        page = model.codec.decode(whole, len(prompt))
        assert len(page.images) == len(frames) and all(picture.pixels is not None for picture in page.images)


@pytest.mark.parametrize("family", ["emu3", "janus", "chameleon"])
def test_guidance_by_the_familys_unconditional_prompt(family: str, pairs: dict[str, Path]) -> None:
    """Token by token as two plain forwards of the prompts give it, frames included."""
    model = load(pairs[family])
    joint, v = model.joint, model.codec.vocabulary
    assert v.layout is not None
    opening = v.layout.write_opening(model.codec.grammar.grid)
    prompt = model.codec.encode_prompt("draw it", opens_image=True)
    length = len(v.layout.body(model.codec.grammar.grid))
    chosen = GenerationSettings(temperature=0.0, guidance_scale=3.0, max_new_tokens=length + 1)
    (generation,) = Engine(joint).run([prompt], chosen)
    conditional, unconditional = list(prompt), [*v.layout.unconditional, *opening]
    with torch.no_grad():
        for token, state in zip(generation.new_ids[:length], _states(model, prompt, generation.new_ids), strict=False):
            if state is State.IMAGE:
                both = [
                    joint.logits(joint.hidden(torch.tensor([ids]))[:, -1], torch.tensor([state]))
                    for ids in (conditional, unconditional)
                ]
                guided = guide(both[0], both[1], torch.tensor([3.0])).nan_to_num(nan=-torch.inf)
                assert guided.argmax() == token
            conditional.append(token)
            unconditional.append(token)
    assert generation.images == 1 and len(v.layout.unconditional) > (family != "chameleon")


def _states(model: Model, prompt: list[int], new_ids: list[int]) -> list[State]:
    return model.codec.grammar.states([*prompt, *new_ids])[len(prompt) :]


@pytest.mark.parametrize(("family", "grids"), [("emu3", [None, (2, 5), (4, 1)]), ("lumina-mgpt", [(2, 6), None])])
def test_pictures_of_the_size_that_is_asked_for(family: str, grids: list[Any], pairs: dict[str, Path]) -> None:
    """In one batch, guided; each as it is drawn alone."""
    model = load(pairs[family])
    prompt = model.codec.encode_prompt("draw it")
    chosen = [
        GenerationSettings(image_grid=grid, max_images=1, max_new_tokens=40, guidance_scale=1.5, temperature=0.0)
        for grid in grids
    ]
    together = Engine(model.joint).run([prompt] * len(grids), chosen)
    for grid, one, settings_ in zip(grids, together, chosen, strict=True):
        (alone,) = Engine(model.joint).run([prompt], settings_)
        assert alone.new_ids == one.new_ids
        page = model.codec.decode([*prompt, *one.new_ids], len(prompt))
        assert page.images[0].grid == grid
        height, width = grid or GRIDS[family]
        side = {"emu3": 2, "lumina-mgpt": 4}[family]
        assert page.images[0].load().size == (width * side, height * side)


def test_a_size_takes_its_room_from_the_budget(pairs: dict[str, Path]) -> None:
    model = load(pairs["emu3"])
    layout = model.codec.vocabulary.layout
    assert layout is not None
    for budget, images in ((layout.length((4, 4)), 0), (layout.length((4, 4)) + 1, 1)):
        page = model.generate("a", image_grid=(4, 4), max_new_tokens=budget, max_images=1)
        assert page.extra["images"] == images
    begun = model.codec.encode_prompt("a", opens_image=True)
    with pytest.raises(ValueError, match=r"opens a picture that needs 15 more tokens, and 14 are left"):
        Engine(model.joint).run([begun], GenerationSettings(max_new_tokens=14))
    with pytest.raises(ValueError, match="3 x 3 codes is to be drawn, and its opening ends within another size"):
        Engine(model.joint).run([[*begun[:-4], layout.numerals[7]]], GenerationSettings())


def test_sizes_that_cannot_be(pairs: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="image_grid is 2 x 8, and all pictures of this model have 16 tokens"):
        load(pairs["chameleon"]).generate("a", image_grid=(2, 8))
    with pytest.raises(ValueError, match="3 x 4 codes cannot be written in the layout 'lumina-mgpt'"):
        load(pairs["lumina-mgpt"]).generate("a", image_grid=(3, 4), max_new_tokens=50)
    with pytest.raises(ValueError, match="must be a height and a width"):
        GenerationSettings(image_grid=(3, 0))


def test_a_single_stream_has_the_layout_too(pairs: dict[str, Path], tmp_path: Path) -> None:
    home = pairs["emu3"].parent
    run(home, method="uniform", out=str(tmp_path / "uniform"))
    model = load(tmp_path / "uniform")
    page = model.generate("draw it", max_images=1, max_new_tokens=60, image_grid=(2, 3))
    assert page.images[0].grid == (2, 3) and model.joint.vocabulary.layout == model.codec.vocabulary.layout


def test_the_layout_is_chosen(pairs: dict[str, Path], tmp_path: Path) -> None:
    home = pairs["chameleon"].parent
    assert run(home, plan=True, layout="paper").vocabulary.layout is None
    plan = run(home, plan=True)
    assert plan.vocabulary.layout is not None and plan.to_json()["vocabulary"]["layout"]["name"] == "chameleon"
    with pytest.raises(
        ValueError, match=r"--layout emu: the image parent, a chameleon, has no such layout; family, chat, paper"
    ):
        run(home, plan=True, layout="emu")
    with pytest.raises(
        ValueError, match=r"lumina-mgpt cannot be written, .* no <reserved08799>, .*take --layout paper"
    ):
        run(home, plan=True, layout="lumina-mgpt")
    torch.manual_seed(0)
    save_pair("simplear", tmp_path)
    plain = tiny.text_tokenizer()
    for role in ("text", "image"):
        plain.save_pretrained(tmp_path / role / "tokenizer")
    plan = run(tmp_path, plan=True, image_start=len(layouts.tokenizer("simplear")))
    assert plan.vocabulary.layout is None and "layout of documents: paper" in plan.summary
    assert any("simplear: the tokenizer has no <|soi|>, <|eoi|>, <|t2i|>" in note for note in plan.notes)


def test_a_parent_with_a_manifest_keeps_its_layout(pairs: dict[str, Path], tmp_path: Path) -> None:
    """A model of this package as the image parent: documents stay what they were."""
    home = pairs["emu3"].parent
    run(home, method="uniform", out=str(tmp_path / "image"), layout="paper")
    (tmp_path / "text").symlink_to(home / "text")
    assert run(tmp_path, plan=True).vocabulary.layout is None
