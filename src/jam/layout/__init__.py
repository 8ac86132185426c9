"""Layouts of documents: the tokens in which a family of image parents frames its pictures and asks its questions.

A released image parent knows pictures in its family's frame only: an opening (with the size, in some families), rows of
codes (ended by a token, in some), a closing. Frames are made of text ids. The paper's own layout, codes between two
``<break>``, needs no `ImageLayout`: it is what holds where there is none.
"""

from jam.layout.frames import CODE, Frame, Grid, ImageLayout, Piece
from jam.layout.named import NamedLayout
from jam.layout.reader import PictureReader, up_to_code

__all__ = ["CODE", "Frame", "Grid", "ImageLayout", "NamedLayout", "PictureReader", "Piece", "up_to_code"]
