"""The stream does not depend on who makes it: processes, threads, sizes of micro-batches, the moment of a resume."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from jam.data import TENSORS, Loader, Objective, Shards, Source, draw_spans, example_length, label
from jam.data.loader import START
from support.encoded import G, V, random_encoded, write_shards


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """So that a few batches go through several."""
    monkeypatch.setattr("jam.data.loader.SEQUENCES_PER_WINDOW", 16)


@pytest.fixture
def loader(tmp_path):
    return make(tmp_path)


def make(folder, batch_size=2):
    if not (folder / "s").exists():
        rng = np.random.default_rng(0)
        documents = [random_encoded(rng, most=12) for _ in range(120)]
        write_shards(folder / "s", documents)
    return Loader([Source(Shards(folder / "s", V), 1.0, 48)], G, 48, batch_size, Objective(), 0)


def rows(batches):
    """Rows of batches, as nested lists."""
    return [
        [getattr(batch, name)[row].tolist() for name in TENSORS]
        for batch in batches
        for row in range(len(batch.inputs))
    ]


def test_lengths_are_known_before_examples_are_made():
    rng = np.random.default_rng(0)
    cut = 0
    for _ in range(2000):
        encoded = random_encoded(rng, most=4)
        spans = draw_spans(encoded, V, Objective(unconditional_rate=0.2), rng)
        limit = len(encoded.ids) - 1 + int(rng.integers(0, 12))
        made = label(encoded, spans, G, Objective(), limit)
        assert example_length(encoded, spans, V, limit) == len(made) <= limit
        cut += len(encoded.ids) - 1 + 3 * len(spans) > limit
    assert cut > 300


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_processes_share_the_micro_batches_of_a_step(loader, ranks):
    whole, place = [], START
    for _ in range(6):
        batches, place = loader.micro_batches(place, 5)
        whole.append([loader.batch(sequences) for sequences in batches])
    parts = [list(islice(loader.steps(START, 5, rank, ranks), 6)) for rank in range(ranks)]
    for number, batches in enumerate(whole):
        merged = [batch for turn in range(5) for batch in [parts[turn % ranks][number][0][turn // ranks]]]
        assert rows(merged) == rows(batches)
    assert all(part[-1][1] == place for part in parts)


def test_resuming_on_another_number_of_processes(loader):
    batches, places = [], [START]
    for made, place in islice(loader.steps(START, 4), 12):
        batches.append(made)
        places.append(place)
    assert places[-1]["window"] >= 1
    for step in (1, 5, 8):
        parts = [next(loader.steps(places[step], 4, rank, 2)) for rank in range(2)]
        (first, place), (second, _) = parts
        assert rows([first[0], second[0], first[1], second[1]]) == rows(batches[step]) and place == places[step + 1]


def test_sequences_do_not_depend_on_the_micro_batch(tmp_path):
    """Nor does the place behind them, so that a run resumes with another size of micro-batch."""
    streams, places = [], []
    for size in (1, 2, 3, 6):
        made, place = make(tmp_path, size).micro_batches(START, 12 // size)
        streams.append(rows([make(tmp_path, size).batch(sequences) for sequences in made]))
        places.append(place)
    assert all(stream == streams[0] for stream in streams) and all(place == places[0] for place in places)


def test_more_processes_than_micro_batches(loader):
    with pytest.raises(ValueError, match="2 micro-batches for 3 processes"):
        next(loader.steps(START, 2, 0, 3))


def test_pieces_of_long_documents_are_found_by_their_number(loader):
    source = loader.sources[0]
    assert len(source) > len(source.shards)
    question_free = [source[index].ids[source[index].main_start :] for index in range(len(source))]
    ids = [token for piece in question_free for token in piece if token != V.break_id]
    whole = [token for one in map(source.shards.__getitem__, range(120)) for token in one.ids[one.main_start :]]
    assert ids == [token for token in whole if token != V.break_id]
    assert torch.tensor([len(source[index].ids) for index in range(len(source))]).max() <= 49
