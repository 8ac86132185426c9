"""Shards that cannot be trained on, and writers that go on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jam.cli import main
from jam.data import Loader, Objective, Shards, ShardWriter, Source, example_length
from jam.grammar import Grammar
from support import tiny
from support.encoded import CAPTION, CONVERSATION, V, random_encoded, write_shards
from support.resealed import reseal_shards


def test_a_recipe_that_names_an_absent_source(tmp_path, capsys):
    model = tiny.model(tmp_path / "made")
    (tmp_path / "fused").mkdir()
    model.save(tmp_path / "fused")
    recipe = tmp_path / "recipe.yaml"
    for path, message in (("nowhere", "there is no such folder of token shards"), ("made", "no token shards here")):
        values = {"sources": [{"path": str(tmp_path / path)}], "steps": 3, "warmup_steps": 1, "batch_tokens": 64}
        recipe.write_text(json.dumps(values))
        assert main(["train", str(recipe), "--model", str(tmp_path / "fused"), "--out", str(tmp_path / "run")]) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert f"{tmp_path / path}: {message}; make them with `jam prepare" in error
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is not valid JSON"), ("[]", "holds a list"), ("{}", "does not say dtype, vocabulary")],
)
def test_unreadable_summaries(tmp_path, content, message):
    write_shards(tmp_path / "s", [CAPTION])
    (tmp_path / "s" / "shards.json").write_text(content)
    with pytest.raises(ValueError, match=f"shards.json {message}"):
        Shards(tmp_path / "s", V)


def without_checksums(folder):
    """As an earlier version wrote shards."""
    summary = json.loads((folder / "shards.json").read_text())
    kept = {name: value for name, value in summary.items() if not name.startswith("checksum")}
    (folder / "shards.json").write_text(json.dumps(kept))


def test_unreadable_arrays(tmp_path):
    write_shards(tmp_path / "s", [CAPTION])
    without_checksums(tmp_path / "s")
    (tmp_path / "s" / "offsets.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="the token shards cannot be read"):
        Shards(tmp_path / "s", V)


def test_arrays_of_other_lengths(tmp_path):
    write_shards(tmp_path / "s", [CAPTION, CAPTION])
    np.save(tmp_path / "s" / "answers.npy", np.load(tmp_path / "s" / "answers.npy")[:1])
    reseal_shards(tmp_path / "s")
    with pytest.raises(ValueError, match=r"answers.npy is of 1 documents and offsets.npy of 2; prepare them again"):
        Shards(tmp_path / "s", V)


def test_a_document_that_begins_with_other_ids(tmp_path):
    write_shards(tmp_path / "s", [CAPTION])
    ids = np.fromfile(tmp_path / "s" / "ids.bin", dtype=np.uint16)
    (ids + 1).tofile(tmp_path / "s" / "ids.bin")
    with pytest.raises(ValueError, match=r"ids.bin cannot be read \(a document must begin with .*; prepare it again"):
        Shards(tmp_path / "s", V)[0]


def test_a_writer_goes_on_behind_what_was_flushed(tmp_path):
    for name in ("whole", "parts", "beside"):
        (tmp_path / name).mkdir()
    with ShardWriter(tmp_path / "whole", V) as writer:
        for one in (CAPTION, CONVERSATION, CAPTION):
            writer.add(one)
    whole = writer.finish()
    with ShardWriter(tmp_path / "parts", V, beside=tmp_path / "beside") as writer:
        writer.add(CAPTION)
        counts = writer.flush()
        writer.add(CAPTION)  # is lost
    with ShardWriter(tmp_path / "parts", V, counts=counts, beside=tmp_path / "beside") as writer:
        writer.add(CONVERSATION)
        writer.add(CAPTION)
    assert writer.finish() == whole and {path.name for path in (tmp_path / "parts").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_packing_of_a_mixture_wastes_little(tmp_path):
    """Captions, interleaved documents that are split, and texts; the benchmark measures real ones."""
    rng = np.random.default_rng(0)
    write_shards(tmp_path / "images", [random_encoded(rng, most=most) for most in (2, 30) for _ in range(300)])
    texts = [random_encoded(rng, most=1) for _ in range(500)]
    write_shards(tmp_path / "texts", texts)
    sources = [Source(Shards(tmp_path / name, V), 1.0, 192) for name in ("images", "texts")]
    loader = Loader(sources, Grammar(V, (2, 2)), 192, 1, Objective(), 0)
    rows = [row for window in range(3) for row in loader._pack(window)]
    used = sum(example_length(sources[one.source][one.piece], one.spans, V, 192) for row in rows for one in row)
    waste = 1 - used / (192 * len(rows))
    print(f"{100 * waste:.2f} % of {len(rows)} sequences is padding")
    assert waste < 0.02
