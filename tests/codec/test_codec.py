"""Documents to ids and back, exactly; image tokenizers of `diffusers` and `transformers`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import Emu3VQVAE, Emu3VQVAEConfig, JanusVQVAE, JanusVQVAEConfig

from jam.codec import Codec, describe_image_tokenizer, load_image_tokenizer, load_tokenizer
from jam.documents import Document, Image, Message, Text
from jam.grammar import Grammar
from jam.vocabulary import Vocabulary
from support import tiny


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny.image_tokenizer(tmp_path_factory.mktemp("vq") / "image_tokenizer")


@pytest.fixture(scope="module", params=["bytes", "first", "always", "prepend"])
def codec(images, request):
    """With text tokenizers of all kinds: byte-level, and those that put a space in front of a text."""
    return tiny.codec(images, None if request.param == "bytes" else tiny.space_tokenizer(request.param))


# --- image tokenizers -------------------------------------------------------------------------------------------------


def save_janus(folder):
    JanusVQVAE(
        JanusVQVAEConfig(
            base_channels=32, channel_multiplier=[1, 1], num_res_blocks=1, num_embeddings=10, embed_dim=4, num_patches=3
        )
    ).save_pretrained(folder)


def save_emu3(folder):
    Emu3VQVAE(
        Emu3VQVAEConfig(
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            codebook_size=10,
            embed_dim=4,
            latent_channels=4,
            attn_resolutions=[],
            hidden_size=32,
            num_attention_heads=1,
            temporal_downsample_factor=2,
        )
    ).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 6}))


@pytest.mark.parametrize(("save", "codes"), [(tiny.save_vq, tiny.CODES), (save_janus, 10), (save_emu3, 10)])
def test_image_tokenizers_encode_and_decode(save, codes, tmp_path):
    torch.manual_seed(0)
    save(tmp_path / "it")
    info = describe_image_tokenizer(tmp_path / "it")
    assert info.codebook_size == codes
    assert info.resolution == 2 * info.grid[0]
    tokenizer = load_image_tokenizer(tmp_path / "it")
    pictures = [tiny.picture(seed, (12, 8)) for seed in range(5)]
    encoded = tokenizer.encode(pictures)
    assert encoded.shape == (5, *info.grid) and encoded.dtype == torch.long
    assert encoded.min() >= 0 and encoded.max() < codes
    assert torch.equal(tokenizer.encode(pictures, batch_size=2), encoded)
    decoded = tokenizer.decode(encoded, batch_size=2)
    assert [picture.size for picture in decoded] == [(info.resolution,) * 2] * 5
    assert len(tokenizer.encode([])) == 0
    assert not tokenizer.model.training and not any(p.requires_grad for p in tokenizer.model.parameters())


def test_fingerprints_tell_what_ids_mean(codec, tmp_path):
    """Alike for a codec that was used, saved and loaded; another for other entries, merges, weights or grids."""
    codec.encode(Document([Text("a </s> b"), Image(pixels=tiny.picture(0))]))
    codec.tokenizer.save_pretrained(tmp_path)
    tiny.save_vq(tmp_path / "vq")
    tokenizer, images = load_tokenizer(tmp_path), load_image_tokenizer(tmp_path / "vq")
    vocabulary, grammar = codec.vocabulary, codec.grammar
    assert (
        Codec(vocabulary, grammar, tokenizer, images).fingerprint
        == codec.fingerprint
        == tiny.codec(images, codec.tokenizer).fingerprint
    )
    others = [Codec(vocabulary, grammar, tokenizer), Codec(vocabulary, Grammar(vocabulary, (3, 3)), tokenizer)]
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    first, second = sorted(saved["model"]["vocab"], key=saved["model"]["vocab"].get)[5:7]
    swapped = saved["model"]["vocab"] | {
        first: saved["model"]["vocab"][second],
        second: saved["model"]["vocab"][first],
    }
    for key, value in (("vocab", swapped), ("merges", saved["model"]["merges"][:-1])):
        (tmp_path / "tokenizer.json").write_text(json.dumps(saved | {"model": saved["model"] | {key: value}}))
        others.append(Codec(vocabulary, grammar, load_tokenizer(tmp_path), images))
    changed = load_image_tokenizer(tmp_path / "vq")
    next(changed.model.parameters()).view(-1)[0] += 1e-3
    others.append(Codec(vocabulary, grammar, codec.tokenizer, changed))
    assert all(other.vocabulary.hash == vocabulary.hash for other in others)
    assert len({codec.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_pixels_are_a_central_square(images):
    picture = tiny.picture(0, (8, 4))
    expected = torch.from_numpy(np.asarray(picture)[:, 2:6] / 127.5 - 1).permute(2, 0, 1).float()
    assert torch.allclose(images.to_pixels(picture), expected, atol=1e-6)


def test_image_tokenizers_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        describe_image_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    known = "VQModel, janus_vqgan, emu3_vqgan, jam_chameleon_vqgan"
    with pytest.raises(ValueError, match=f"'unheard_of' is not known; known: {known}"):
        describe_image_tokenizer(tmp_path)


def test_codec_checks_its_image_tokenizer(images):
    tokenizer = tiny.text_tokenizer()
    size = len(tokenizer)
    with pytest.raises(ValueError, match="12 codes, the vocabulary 13"):
        Codec(v := Vocabulary(size, 13, 0), Grammar(v, (2, 2)), tokenizer, images)
    with pytest.raises(ValueError, match=r"grid of \(2, 2\), the grammar 9"):
        Codec(v := Vocabulary(size, 12, 0), Grammar(v, (3, 3)), tokenizer, images)


# --- text -------------------------------------------------------------------------------------------------------------


def test_tokenizers_without_end_of_text_are_refused(tmp_path):
    tokenizer = tiny.text_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="no eos_token"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="holds no tokenizer; copy its files into"):
        load_tokenizer(tmp_path / "nothing")


@pytest.mark.parametrize(
    "text",
    ["</s>", "a</s>b </s>", "<break><sentinel:0>", "雨 🌧", "  two  spaces ", "\n", "x\u0301", "a", " a", "   ", " "],
)
def test_texts_come_back_exactly(codec, text):
    """Names of special tokens in a text are ordinary text."""
    ids = codec.encode(Document([Text(text)])).ids
    assert ids.count(codec.vocabulary.eos_id) == 2
    assert codec.decode(ids).content == [Text(text)]


@pytest.mark.parametrize("space", ["", " ", "  "])
def test_spaces_around_pictures_and_answers_come_back(codec, space):
    content = [Text(f"{space}a{space}"), PICTURE, Text(f"{space}tree{space}")]
    back = codec.decode(codec.encode(Document(content)).ids)
    assert back.texts == [part.text for part in content if isinstance(part, Text)]
    turns = [Message("user", [Text(f"{space}a{space}")]), Message("assistant", content)]
    encoded = codec.encode(Document(messages=turns))
    back = codec.decode(encoded.ids, encoded.main_start)
    assert [message.content[0] for message in back.messages] == [Text(f"{space}a{space}")] * 2
    assert codec.encode(back) == encoded


def test_texts_begin_as_in_pretraining():
    """A text is encoded as the tokenizer encodes one of its own, unless a leading space would be lost by that."""
    codec = tiny.codec(tokenizer=tiny.space_tokenizer("first"))
    for text in ("a tree", "\na", "."):
        plain = codec.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert codec.encode(Document([PICTURE, Text(text)])).ids[-1 - len(plain) : -1] == plain


# --- interleaving -----------------------------------------------------------------------------------------------------


def shape(codec, ids):
    """Ids with `<break>` as |, image tokens as #, text as t."""
    v = codec.vocabulary
    controls = {v.eos_id: "e", v.break_id: "|"}
    marks = [controls.get(token, "#" if v.is_image(token) else "t") for token in ids]
    return "".join(mark for mark, before in zip(marks, ["", *marks], strict=False) if mark in "e|" or mark != before)


PICTURE = Image(codes=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([Text("a"), PICTURE], "et|#e"),
        ([PICTURE, Text("a")], "e|#|te"),
        ([PICTURE, PICTURE], "e|#||#e"),
        ([Text("a"), Text("b"), PICTURE, Text(""), PICTURE], "et|#||#e"),
        ([PICTURE, Text("")], "e|#|e"),
        ([], "ee"),
    ],
)
def test_breaks_stand_where_the_modality_changes(codec, content, expected):
    ids = codec.encode(Document(content)).ids
    assert shape(codec, ids) == expected
    codec.grammar.states(ids)


def test_ids_to_document_to_ids_is_exact(codec):
    rng = np.random.default_rng(0)
    for _ in range(40):
        document = tiny.random_document(rng)
        encoded = codec.encode(document)
        codec.grammar.states(encoded.ids)
        back = codec.decode(encoded.ids, encoded.main_start)
        again = codec.encode(back)
        assert (again.ids, again.main_start) == (encoded.ids, encoded.main_start)
        assert [image.codes for image in back.images] == [image.codes for image in document.images]
        assert all(image.pixels is not None for image in back.images)
        if not document.messages:
            assert "".join(back.texts) == "".join(document.texts)


def test_any_ids_that_obey_the_grammar_come_back(codec):
    """Empty texts between, before and behind pictures included."""
    v, rng = codec.vocabulary, np.random.default_rng(1)
    text = codec.encode(Document([Text("a")])).ids[1:-1]
    for _ in range(60):
        ids = [v.eos_id, *(text if rng.random() < 0.5 else [])]
        for _ in range(int(rng.integers(0, 4))):
            ids += [v.break_id, *v.to_image_ids(rng.integers(0, tiny.CODES, tiny.IMAGE_TOKENS))]
            if rng.random() < 0.7:
                ids += [v.break_id, *(text if rng.random() < 0.5 else [])]
            else:
                break
        ids.append(v.eos_id)
        assert codec.encode(codec.decode(ids)).ids == ids


def test_conversations(codec):
    turns = [Message("user", [Text("q"), PICTURE]), Message("assistant", [Text("a")])]
    turns += [Message("user", [Text("Q")]), Message("assistant", [PICTURE, Text("A")])]
    encoded = codec.encode(Document(messages=turns))
    assert shape(codec, encoded.ids) == "et|#|t|#|te"
    back = codec.decode(encoded.ids, encoded.main_start)
    assert [message.role for message in back.messages] == ["user", "assistant"]
    assert [p.text if isinstance(p, Text) else p.codes for p in back.parts] == [
        "q",
        [1, 2, 3, 4],
        "\na\nQ",
        [1, 2, 3, 4],
        "A",
    ]
    prompt = codec.encode_prompt(Document(messages=turns[:3]))
    assert prompt == encoded.ids[: encoded.main_start]
    assert codec.encode_prompt("Q") == codec.encode(Document(messages=turns[2:])).ids[: len(codec.encode_prompt("Q"))]


def test_a_conversation_to_learn_from_ends_with_an_answer(codec):
    document = Document(messages=[Message("user", [Text("q")])], where="docs.jsonl:7: ")
    with pytest.raises(ValueError, match=r"docs\.jsonl:7: the last message is of role 'user'"):
        codec.encode(document)


def test_a_question_ends_its_turn_and_a_beginning_goes_on(codec):
    question = codec.encode(Document(messages=[Message("user", [Text("a")]), Message("assistant", [])])).ids[:-1]
    assert (
        codec.encode_prompt("a") == codec.encode_prompt(Document(messages=[Message("user", [Text("a")])])) == question
    )
    for content in ([Text("a")], [Text("a"), PICTURE], [PICTURE, Text("a ")]):
        assert codec.encode_prompt(Document(content)) == codec.encode(Document(content)).ids[:-1]


@pytest.mark.parametrize("prompt", ["", " \n", Document(), Document([Text(" ")])])
def test_empty_prompts_are_refused(codec, prompt):
    with pytest.raises(ValueError, match="the prompt is empty"):
        codec.encode_prompt(prompt)


def test_pictures_are_encoded_together_and_left_as_they_are(codec, images):
    pictures = [Image(pixels=tiny.picture(seed)) for seed in range(3)]
    documents = [Document([pictures[0], Text("a"), pictures[1]]), Document([pictures[2], pictures[0]])]
    encoded = codec.encode_batch(documents)
    assert [codec.encode(document) for document in documents] == encoded
    decoded = [image.codes for one in encoded for image in codec.decode(one.ids).images]
    expected = images.encode([picture.load() for picture in pictures]).flatten(1).tolist()
    assert decoded == [expected[0], expected[1], expected[2], expected[0]]
    assert all(picture.codes is None for picture in pictures)  # another model may have other codes


def test_decoding_what_is_no_whole_document(codec):
    v = codec.vocabulary
    ids = codec.encode(Document([Text("a"), PICTURE])).ids
    assert codec.decode(ids[:-1]).parts[1].codes == PICTURE.codes  # not yet closed
    with pytest.raises(ValueError, match="unfinished: it has 2 of 4 codes"):
        codec.decode(ids[:-3])
    with pytest.raises(ValueError, match="a sentinel stands at position 1"):
        codec.decode([v.eos_id, v.sentinel_id(0), v.break_id])
    with pytest.raises(ValueError, match="position 1"):
        codec.decode([v.eos_id, v.eoss_id])


def test_models_without_images_refuse_pictures(codec):
    tokenizer = tiny.text_tokenizer()
    v = Vocabulary(len(tokenizer), 0, 0, sentinels=0)
    text_only = Codec(v, Grammar(v), tokenizer)
    document = Document([Text("a"), Image(codes=[1], where="docs.jsonl:3: ")])
    with pytest.raises(
        ValueError, match=r"docs\.jsonl:3: this document has a picture, and the model has no image tokens"
    ):
        text_only.encode(document)
    with pytest.raises(ValueError, match="has 1 codes, this model's have 4"):
        codec.encode(document)
    unable = Codec(codec.vocabulary, codec.grammar, tokenizer)
    with pytest.raises(ValueError, match="there is no image tokenizer"):
        unable.encode(Document([Image(pixels=tiny.picture(0))]))
    assert unable.decode(codec.encode(Document([PICTURE])).ids).images[0].pixels is None
