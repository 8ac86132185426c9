"""Layouts of families: what a document is written as, what the grammar allows, what is masked, cut and learnt."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from jam import cm3
from jam.data import PLAIN, Objective, make_example, split
from jam.documents import Document, Image, Message, Text, parse_document, to_record
from jam.generation.request import Request, read_prompt
from jam.grammar import Cursor, Grammar, State
from jam.layout import ImageLayout
from jam.vocabulary import Vocabulary
from support import layouts, tiny

FAMILIES = list(layouts.LAYOUTS)
SIZED = ["emu3", "lumina-mgpt"]
GRID = (2, 4)


def picture(rng: np.random.Generator, family: str) -> Image:
    """Of the usual shape, or in a layout that says it of another one."""
    if family not in SIZED or rng.random() < 0.5:
        return Image(codes=rng.integers(0, tiny.CODES, 8).tolist())
    grid = int(2 * rng.integers(1, 6)), int(2 * rng.integers(1, 6))
    return Image(codes=rng.integers(0, tiny.CODES, grid[0] * grid[1]).tolist(), grid=grid if grid != GRID else None)


def random_document(rng: np.random.Generator, family: str) -> Document:
    """Texts and pictures in any order, no two texts beside each other; content, or a question and an answer."""

    def parts() -> list:
        drawn: list = []
        for _ in range(int(rng.integers(1, 6))):
            is_text = rng.random() < 0.5 and not (drawn and isinstance(drawn[-1], Text))
            drawn.append(Text(str(rng.choice(tiny.SENTENCES))) if is_text else picture(rng, family))
        return drawn

    if rng.random() < 0.5:
        return Document(parts())
    return Document(messages=[Message("user", parts()), Message("assistant", parts())])


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_come_back_exactly(family: str) -> None:
    codec, rng = layouts.codec(family, GRID), np.random.default_rng(0)
    for _ in range(60):
        document = random_document(rng, family)
        encoded = codec.encode(document)
        back = codec.decode(encoded.ids, encoded.main_start)
        assert to_record(back) == to_record(document)
        again = codec.encode(back)
        assert again == encoded
        assert to_record(parse_document(json.dumps(to_record(document)))) == to_record(document)


EMU3 = ["<|extra_203|>", "<|image start|>", "1", "0", "*", "2", "<|image token|>"]
WRITTEN = {
    "chameleon": ("<s>", ["<racm3:break>"], [], ["<eoss>"]),
    "lumina-mgpt": ("<s>", ["<racm3:break>", "<reserved08801>", "<reserved08802>"], ["<reserved08799>"], ["<eoss>"]),
    "emu3": (
        "<|extra_203|>",
        ["<|image start|>", "2", "*", "4", "<|image token|>"],
        ["<|extra_200|>"],
        ["<|extra_201|>", "<|image end|>"],
    ),
    "janus": (layouts.SPECIAL["janus"]["bos_token"], ["<begin_of_image>"], [], ["<end_of_image>"]),
    "liquid": ("<bos>", ["<boi>"], [], ["<eoi>"]),
    "simplear": ("</s>", ["<|soi|>"], [], ["<|eoi|>"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_by_the_names_of_their_tokens(family: str) -> None:
    codec = layouts.codec(family, GRID)
    ids = codec.encode(Document([Image(codes=list(range(8))), Text("a")])).ids
    names = codec.tokenizer.convert_ids_to_tokens([min(token, codec.vocabulary.text_size - 1) for token in ids])
    codes = [token - codec.vocabulary.image_start for token in ids]
    begin, opening, row_end, closing = WRITTEN[family]
    expected = [begin, *opening, *range(4), *row_end, *range(4, 8), *row_end, *closing, "a", "</s>"]
    assert [code if 0 <= code < 8 else name for name, code in zip(names, codes, strict=True)] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_a_document(family: str) -> None:
    """The frame behind the first token is FRAME, codes are IMAGE, and a cursor agrees, id by id."""
    codec, rng = layouts.codec(family, GRID), np.random.default_rng(1)
    grammar, v = codec.grammar, codec.vocabulary
    for _ in range(10):
        ids = codec.encode(random_document(rng, family)).ids
        states, cursor = grammar.states(ids), Cursor(grammar)
        for token, state in zip(ids[1:], states[1:], strict=True):
            assert cursor.state is state
            assert (state is State.IMAGE) == v.is_image(token)
            if cursor.picture is not None and cursor.picture.next == "frame":
                assert cursor.forced()[0] == token
                assert [other for other in range(v.size) if cursor.is_allowed(other)] == [token]
            cursor.feed(token)
        assert cursor.images == sum(token == v.open_id for token in ids) and cursor.state is State.CLOSED
        for end in range(1, len(ids)):
            assert grammar.states(ids[:end]) == states[:end]
    table = grammar.allowed()
    assert not table[:, v.break_id].any() and not table[State.TEXT, list(v.layout.reserved)].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_broken_frame_is_refused(family: str) -> None:
    codec, rng = layouts.codec(family, GRID), np.random.default_rng(2)
    ids = codec.encode(Document([Text("a"), Image(codes=list(range(8))), Text("a")])).ids
    (frame,) = codec.vocabulary.layout.frames(ids)
    for place in range(frame.start, frame.end):
        with pytest.raises(ValueError):
            codec.grammar.states(ids[:place] + ids[place + 1 :])  # an id is missing
        with pytest.raises(ValueError):
            codec.grammar.states([*ids[:place], codec.vocabulary.break_id, *ids[place + 1 :]])
    swaps = rng.integers(frame.start, frame.end, (40, 2))
    for one, other in swaps.tolist():
        swapped = list(ids)
        swapped[one], swapped[other] = ids[other], ids[one]
        both_codes = codec.vocabulary.is_image(ids[one]) and codec.vocabulary.is_image(ids[other])
        if both_codes or ids[one] == ids[other]:
            continue
        if family in SIZED and max(one, other) < frame.first:
            continue  # another size, which the codes then do not have: below
        with pytest.raises(ValueError):
            codec.grammar.states(swapped)


@pytest.mark.parametrize("family", SIZED)
def test_the_grammar_reads_the_size(family: str) -> None:
    v = layouts.vocabulary(family)
    grammar = Grammar(v, GRID)
    ids = [*v.begin_ids, *v.layout.write(v.to_image_ids([1] * 24), (6, 4))]
    assert grammar.states(ids).count(State.IMAGE) == 24
    with pytest.raises(ValueError, match=r"may not come in state (IMAGE|FRAME)"):
        grammar.states([*v.begin_ids, *v.layout.write_opening((4, 6)), *ids[1 + len(v.layout.write_opening((6, 4))) :]])
    cursor = Cursor(grammar, grid=(4, 2))
    cursor.feed(v.open_id)
    assert [v.open_id, *cursor.forced()] == v.layout.write_opening((4, 2))
    assert cursor.image_length == v.layout.length((4, 2)) and cursor.image_left == cursor.image_length - 1
    if family == "emu3":
        zero = v.layout.numerals[0]
        with pytest.raises(ValueError, match="position 1: the opening of a picture has no size"):
            grammar.states([*v.begin_ids, v.open_id, zero])
        assert v.layout.read_opening(v.layout.write_opening((123, 4567))) == (10, (123, 4567))
    else:
        with pytest.raises(ValueError, match=r"3 x 4 codes cannot be written .* multiples of 2 up to 128"):
            v.layout.write_opening((3, 4))


@pytest.mark.parametrize("family", SIZED)
def test_a_gap_is_for_a_picture_of_the_usual_shape(family: str) -> None:
    v = layouts.vocabulary(family)
    for grid in (GRID, (4, 2)):
        ids = [*v.begin_ids, *v.layout.write(v.to_image_ids(range(8)), grid), v.eos_id]
        masked = cm3.mask(ids, cm3.segments(ids, v), v)
        prompt = masked[: masked.index(v.eos_id) + 2]
        if grid == GRID:
            assert read_prompt(Request(prompt), Grammar(v, GRID)).whole == {0: GRID}
            continue
        place = prompt.index(v.sentinel_id(0))
        with pytest.raises(ValueError, match=f"position {place}: a picture of 4 x 2 codes is masked; .* one of 2 x 4"):
            read_prompt(Request(prompt), Grammar(v, GRID))


@pytest.mark.parametrize("family", FAMILIES)
def test_masking_never_cuts_a_frame(family: str) -> None:
    """What is relocated is text, or codes with the row ends between them; states by the cursor are the same."""
    codec, rng = layouts.codec(family, GRID), np.random.default_rng(3)
    grammar, v = codec.grammar, codec.vocabulary
    moved_rows = masked_images = 0
    for number in range(100):
        ids = codec.encode(random_document(rng, family)).ids
        spans = cm3.draw_spans(ids, v, rng, poisson=2.0) if number % 4 else cm3.text_spans(ids, v)
        for left, right in spans:
            chosen_in = set(grammar.states(ids)[left:right])
            assert chosen_in == {State.TEXT} or chosen_in <= {State.IMAGE, State.FRAME}
            inside = [token for token in ids[left:right] if not v.is_image(token)]
            assert State.TEXT in chosen_in or set(inside) <= {v.layout.row_end}
            moved_rows += len(inside) if State.IMAGE in chosen_in else 0
        masked = cm3.mask(ids, spans, v)
        assert cm3.unmask(masked, v) == ids
        states = grammar.states(masked)
        masked_images += State.MASKED_IMAGE in states
        cursor = Cursor(grammar)
        for token, state in zip(masked[1:], states[1:], strict=True):
            if state is State.MASKED_IMAGE and cursor.state is State.IMAGE:
                cursor.enter_masked_image()
            in_codes = cursor.state in (State.MASKED_IMAGE, State.IMAGE_SPAN)
            assert cursor.state is state or (in_codes and state is State.FRAME)
            cursor.feed(token)
        assert cursor.state is State.CLOSED
        if len(masked) > 20 and (kept := cm3.trim(masked, len(masked) - 2, v)) is not None:
            cut = [masked[place] for place in kept]
            assert cm3.unmask(cut, v).count(v.open_id) == ids.count(v.open_id)
            grammar.states(cut)
    assert masked_images > 20 and (moved_rows > 5) == (v.layout.row_end is not None)


def test_a_span_moves_rows_with_the_tokens_that_end_them() -> None:
    codec = layouts.codec("emu3", GRID)
    v, row_end = codec.vocabulary, codec.vocabulary.layout.row_end
    ids = codec.encode(Document([Image(codes=list(range(8)))])).ids
    first = ids.index(v.image_start)
    masked = cm3.mask(ids, [(first + 2, first + 6)], v)
    codes = v.to_image_ids(range(8))
    sentinel = v.sentinel_id(0)
    assert masked[first:] == [
        *codes[:2], sentinel, *codes[5:], row_end, *v.layout.closing, v.eos_id,
        sentinel, *codes[2:4], row_end, codes[4], v.eoss_id,
    ]  # fmt: skip
    m, f, s = State.MASKED_IMAGE, State.FRAME, State.IMAGE_SPAN
    assert codec.grammar.states(masked)[first:] == [m] * 6 + [f] * 3 + [State.TEXT, State.CLOSED, s, s, f, s, s]


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_are_not_learnt(family: str) -> None:
    """But for the token that opens a picture, which is a choice."""
    codec, rng = layouts.codec(family, GRID), np.random.default_rng(4)
    encoded = codec.encode(Document([Text("a"), Image(codes=list(range(8))), Text("a")]))
    example = make_example(encoded, codec.grammar, PLAIN, rng)
    assert set(example.weights[example.states == State.FRAME]) == {0.0}
    assert set(example.weights[example.states != State.FRAME]) == {1.0}
    assert codec.vocabulary.open_id in example.targets[example.weights > 0]
    for _ in range(50):
        encoded = codec.encode(random_document(rng, family))
        example = make_example(encoded, codec.grammar, Objective(), rng, limit=len(encoded.ids) - 1)
        assert len(example) <= len(encoded.ids) - 1 and not example.weights[example.states == State.FRAME].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_long_documents_are_split_between_frames(family: str) -> None:
    codec, rng = layouts.codec(family, GRID), np.random.default_rng(5)
    several = 0
    for _ in range(40):
        encoded = codec.encode(Document(random_document(rng, family).parts))
        frames = codec.vocabulary.layout.frames(encoded.ids)
        longest = max([8, *(frame.end - frame.start for frame in frames)])
        pieces = split(encoded, longest + 4, codec.vocabulary)
        several += len(pieces) > 1
        for piece in pieces:
            codec.grammar.states(piece.ids)
        assert [token for piece in pieces for token in piece.ids[1:]] == encoded.ids[1:]
    assert several > 10


def test_the_layout_is_part_of_the_vocabulary() -> None:
    """A folder in the paper's layout has the hash it always had; a family's has another one, and comes back."""
    plain = Vocabulary(7, 4, 0, 2)
    assert plain.hash == "48d61c0a1653a78b"
    assert "layout" not in plain.to_dict() and plain.begin_ids == (plain.eos_id,) and plain.open_id == plain.break_id
    hashes = {plain.hash}
    for family in FAMILIES:
        v = layouts.vocabulary(family)
        back = Vocabulary.from_dict(json.loads(json.dumps(v.to_dict())))
        assert back == v and back.hash == v.hash
        hashes.add(v.hash)
    assert len(hashes) == len(FAMILIES) + 1


def test_layouts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="must begin and end with a token"):
        ImageLayout("x", 0, opening=(), closing=(3,))
    with pytest.raises(ValueError, match="must not be one that closes"):
        ImageLayout("x", 0, opening=(3,), closing=(3,), reserved=(3,))
    with pytest.raises(ValueError, match="must be followed by a token"):
        ImageLayout("x", 0, opening=(4, "height"), closing=(3,), reserved=(3,), decimal=True)
    layout = ImageLayout("x", 0, opening=(4,), closing=(9,), row_end=5, reserved=(5, 9))
    with pytest.raises(ValueError, match=r"the layout 'x' uses id 9, which is none of the ids of text"):
        Vocabulary(8, 4, 0, layout=layout)


def test_a_tokenizer_that_cannot_write_a_layout_says_why() -> None:
    assert layouts.LAYOUTS["emu3"].missing(layouts.tokenizer("emu3")) is None
    assert "no <|image start|>, <|image token|>" in layouts.LAYOUTS["emu3"].missing(layouts.tokenizer("janus"))
    made = tiny.text_tokenizer().backend_tokenizer
    whole = json.loads(made.to_str())
    names = list(whole["model"]["vocab"])
    number = len(names)
    whole["model"]["vocab"]["90"] = number
    whole["model"]["merges"].insert(0, ["9", "0"])
    merging = PreTrainedTokenizerFast(tokenizer_object=type(made).from_str(json.dumps(whole)), eos_token="</s>")
    merging.add_special_tokens({"additional_special_tokens": ["<|extra_203|>", *layouts.SPECIAL["emu3"]["names"]]})
    assert "does not write the size 90 x 90 digit by digit" in layouts.LAYOUTS["emu3"].missing(merging)
