"""Any document comes back from its ids, whatever tokenizer reads its texts and whatever layout frames its pictures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jam.codec import Codec
from jam.documents import to_record
from support import generated, layouts, tiny

CODECS: dict[str, Codec] = {
    "bytes": tiny.codec(),
    "first": tiny.codec(tokenizer=tiny.space_tokenizer("first")),
    "always": tiny.codec(tokenizer=tiny.space_tokenizer("always")),
    "prepend": tiny.codec(tokenizer=tiny.space_tokenizer("prepend")),
} | {family: layouts.codec(family) for family in layouts.LAYOUTS}


@generated.FEW
@given(st.data())
@pytest.mark.parametrize("name", CODECS)
def test_documents_come_back(name: str, data: st.DataObject) -> None:
    """Of a conversation the last answer; its questions become one, which is encoded alike where nothing marks them."""
    codec = CODECS[name]
    questions = 3 if codec.vocabulary.layout is None else 1
    document = data.draw(generated.documents(codec.grammar.grid, tiny.CODES, questions))
    encoded = codec.encode(document)
    codec.grammar.states(encoded.ids)
    back = codec.decode(encoded.ids, encoded.main_start)
    again = codec.encode(back)
    assert (again.ids, again.main_start) == (encoded.ids, encoded.main_start)
    assert len(encoded.weights()) == len(encoded.ids) and len(encoded.earlier_answers()) <= len(document.messages[:-1])
    if document.messages:
        assert to_record(back)["messages"][-1] == to_record(document)["messages"][-1]
    else:
        assert to_record(back) == to_record(document)
