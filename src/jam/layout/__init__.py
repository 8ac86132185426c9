"""Layouts of documents: how these begin, how pictures stand in them and how questions are asked.

A released image parent knows pictures in its family's frame only: an opening (with the size, in some families), rows of
codes (ended by a token, in some), a closing. Frames are made of text ids. The paper's own layout is codes between two
``<break>``.
"""

from jam.layout.frames import ImageLayout
from jam.layout.named import NamedLayout
from jam.layout.paper import PaperLayout
from jam.layout.pictures import CODE, Frame, Grid, PictureLayout, Piece
from jam.layout.reader import PictureReader, up_to_code

__all__ = [
    "CODE",
    "Frame",
    "Grid",
    "ImageLayout",
    "NamedLayout",
    "PaperLayout",
    "PictureLayout",
    "PictureReader",
    "Piece",
    "up_to_code",
]
