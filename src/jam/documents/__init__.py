"""Documents: text and pictures in order, perhaps with gaps; the type of all inputs and outputs.

Documents are read and written as JSON lines, and written as Markdown and HTML. Pixels are read on request only.
"""

from jam.documents.attached import PICTURE_KEYS, Sample
from jam.documents.document import (
    Document,
    Gap,
    Message,
    Part,
    Text,
    article,
    ending,
    page,
    require_parts,
    to_html,
    to_markdown,
)
from jam.documents.json_files import MAX_RECORD, JsonError, json_records
from jam.documents.lost import READ_SUFFIXES
from jam.documents.picture_paths import PicturePathError, require_media_path, shortened
from jam.documents.pictures import WEB, Image, data_uri, is_data_uri
from jam.documents.pixels import MAX_BYTES, PictureSizeError, png_bytes, to_rgb
from jam.documents.records import (
    parse_document,
    parse_record,
    present,
    read_documents,
    to_record,
    write_documents,
)

__all__ = [
    "MAX_BYTES",
    "MAX_RECORD",
    "PICTURE_KEYS",
    "READ_SUFFIXES",
    "WEB",
    "Document",
    "Gap",
    "Image",
    "JsonError",
    "Message",
    "Part",
    "PicturePathError",
    "PictureSizeError",
    "Sample",
    "Text",
    "article",
    "data_uri",
    "ending",
    "is_data_uri",
    "json_records",
    "page",
    "parse_document",
    "parse_record",
    "png_bytes",
    "present",
    "read_documents",
    "require_media_path",
    "require_parts",
    "shortened",
    "to_html",
    "to_markdown",
    "to_record",
    "to_rgb",
    "write_documents",
]
