"""Vocabulary tables: bring the rows of both parents into the order of the joint vocabulary.

Shapes: V joint ids, N rows of a parent's table, D hidden size. An index is long ``[V]``, -1 where a parent has no row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_row(table_ND: Tensor, index_V: Tensor) -> Tensor:
    """Mean of the rows that a parent has of the joint vocabulary, ``[D]``: stands in for a row that it lacks."""
    return table_ND[index_V[index_V >= 0]].mean(0)


def joint_table(table_ND: Tensor, index_V: Tensor) -> Tensor:
    """A parent's table in joint order, ``[V, D]``; rows that it lacks are its mean row."""
    table_VD = table_ND[index_V.clamp(min=0)]
    table_VD[index_V < 0] = mean_row(table_ND, index_V)
    return table_VD


def merged_table(
    text_ND: Tensor,
    image_ND: Tensor,
    *,
    text_V: Tensor,
    image_V: Tensor,
    text_size: int | None = None,
) -> Tensor:
    """One table of both parents, ``[V, D]``.

    A row that one parent alone has is copied from it. A row that both have is their average or, with `text_size`, the
    text parent's for ids below it and the image parent's for the others. A row that nobody has is the mean of all.
    """
    has_text, has_image = text_V >= 0, image_V >= 0
    table_VD = torch.zeros(len(text_V), text_ND.shape[1], dtype=text_ND.dtype)
    table_VD[has_image] = image_ND[image_V[has_image]]
    if text_size is None:
        table_VD[has_text] += text_ND[text_V[has_text]]
        table_VD[has_text & has_image] /= 2
    else:
        from_text = has_text & ((torch.arange(len(text_V)) < text_size) | ~has_image)
        table_VD[from_text] = text_ND[text_V[from_text]]
    known = has_text | has_image
    table_VD[~known] = table_VD[known].mean(0)
    return table_VD
