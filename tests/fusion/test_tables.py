"""Rows of a parent's tensor, gathered by their numbers (`jam.fusion.tables`), and rows that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jam.checkpoints import CheckpointReader
from jam.fusion.blocks import BLOCK
from jam.fusion.pieces import Pieces, covers
from jam.fusion.rows import merged_table, piece_means
from jam.fusion.tables import ExtendedTable, Table

WIDE = 2**16  # numbers of a row, of which few make a block
ASKED = {
    "in order": [3, 4, 5, 6],
    "one": [7],
    "repeated": [5, 5, 2, 5, 2, 2],
    "backwards": [6, 5, 4],
    "near each other": [9, 7, 8, 7],
    "far from each other": [39, 0, 20, 0],
    "neighbours far from others": [30, 31, 1, 31],
}


def table_of(tmp_path: Path, rows: torch.Tensor) -> Table:
    save_file({"rows": rows}, tmp_path / "model.safetensors")
    return Table(CheckpointReader(tmp_path), "rows")


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_by_their_numbers(tmp_path: Path, asked: str, dtype: torch.dtype) -> None:
    rows = torch.randn(40, WIDE).to(dtype)
    table, index = table_of(tmp_path, rows), torch.tensor(ASKED[asked])
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    assert BLOCK // WIDE == table.block_rows == 4
    for part in index.split(table.block_rows):
        got = table.gather(part)
        assert got.dtype is wide and torch.equal(got, rows[part].to(wide))


def test_every_row_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that lie within a block of each other in one read, others in one read a run."""
    table = table_of(tmp_path, torch.randn(40, WIDE))
    reads: list[tuple[int, int]] = []
    plain = CheckpointReader.read_rows

    def counted(self: Any, name: str, start: int, stop: int, buffer: Any = None) -> torch.Tensor:
        reads.append((start, stop))
        return plain(self, name, start, stop, buffer)

    monkeypatch.setattr(CheckpointReader, "read_rows", counted)
    expected = {
        "repeated": [(2, 6)],
        "near each other": [(7, 10)],
        "far from each other": [(0, 1), (20, 21), (39, 40)],
        "neighbours far from others": [(1, 2), (30, 32)],
    }
    for asked, spans in expected.items():
        reads.clear()
        table.gather(torch.tensor((ASKED[asked] * 2)[:4]))
        assert reads == spans, asked


@pytest.mark.parametrize("width", [3, WIDE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_of_pieces_are_added_one_by_one(tmp_path: Path, width: int, dtype: torch.dtype) -> None:
    """To the last bit as one row after the other is added in fp32, whatever is read together."""
    rows = torch.randn(50, width).to(dtype)
    behind = torch.randn(5, width)
    lengths = [1, 0, 7, 2, 0, 9, 1, 40]
    pieces = Pieces(np.cumsum([0, *lengths]), torch.randint(55, (60,)).numpy(), 0)
    table = ExtendedTable(table_of(tmp_path, rows), behind)
    got = torch.cat([block.clone() for block in piece_means(table, pieces=pieces, read=np.arange(55))])
    both = torch.cat([rows.float(), behind])
    for token, length in enumerate(lengths):
        own = both[pieces.rows[pieces.starts[token] : pieces.starts[token + 1]]]
        total = torch.zeros(width)
        for row in own if length else both.double():
            total = total + row
        assert torch.equal(got[token], (total / length) if length else (total / 55).float()), token


def test_spans_that_cover_a_string() -> None:
    assert covers([(0, 2), (2, 5)], 5) and covers([(0, 1), (0, 1), (1, 2)], 2)  # bytes of one letter have its place
    assert covers([(2, 5), (0, 2)], 5) and covers([(0, 4), (1, 2)], 4)
    assert not covers([(0, 2), (3, 5)], 5) and not covers([(1, 5)], 5) and not covers([(0, 4)], 5)
    assert not covers([], 1)


@pytest.mark.parametrize("weight", [None, 0.5, 0.3])
@pytest.mark.parametrize("nobodys", [[], [40, 41, 42], [0, 1], [0, 42], [5, 17, 18]], ids=str)
def test_rows_that_nobody_has_are_the_mean_of_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float | None, nobodys: list[int]
) -> None:
    """Wherever they stand: to the last bit as the others' rows are added one by one in fp64."""
    monkeypatch.setattr("jam.fusion.blocks.BLOCK", 21)  # seven rows
    parents = {}
    for role in ("text", "image"):
        (tmp_path / role).mkdir()
        parents[role] = torch.randn(50, 3)
    text_V, image_V = np.arange(43), np.arange(43) + 5
    image_V[8:12], text_V[20:] = -1, -1
    text_V[nobodys] = image_V[nobodys] = -1
    tables = [table_of(tmp_path / role, rows) for role, rows in parents.items()]
    made = merged_table(*tables, text_V=text_V, image_V=image_V, weight=weight, text_size=15)
    got = torch.cat([block.clone() for block in made])
    total = torch.zeros(3, dtype=torch.float64)
    for row in range(43):
        own = text_V[row] >= 0 and (image_V[row] < 0 or row < 15 or weight is not None)
        expected = parents["text"][text_V[row]] if own else parents["image"][image_V[row]]
        if weight is not None and text_V[row] >= 0 and image_V[row] >= 0:
            expected = expected * weight + parents["image"][image_V[row]] * (1 - weight)
            torch.testing.assert_close(got[row], expected)
        elif row not in nobodys:
            assert torch.equal(got[row], expected), row
        if row not in nobodys:
            total += got[row].double()
    mean = (total / (43 - len(nobodys))).float()
    assert all(torch.equal(got[row], mean) for row in nobodys)
