"""The one type that goes in and comes out everywhere: a document of text and pictures in order, perhaps with gaps.

JSON lines in and out, Markdown and HTML out. Pixels are read only when they are asked for.
"""

from jam.documents.document import Document, Gap, Message, Part, Text, article, ending, page, to_html, to_markdown
from jam.documents.pictures import DATA_URI, Image, PictureSizeError, data_uri, png_bytes, to_rgb
from jam.documents.records import parse_document, parse_record, read_documents, to_record, write_documents

__all__ = [
    "DATA_URI",
    "Document",
    "Gap",
    "Image",
    "Message",
    "Part",
    "PictureSizeError",
    "Text",
    "article",
    "data_uri",
    "ending",
    "page",
    "parse_document",
    "parse_record",
    "png_bytes",
    "read_documents",
    "to_html",
    "to_markdown",
    "to_record",
    "to_rgb",
    "write_documents",
]
