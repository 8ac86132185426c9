"""A reader of distributed checkpoints (DCP) that runs no code from their files.

The index of `torch.distributed.checkpoint` is a pickle, which can call any function of Python. This reader accepts only
the few classes of which an index of tensors consists.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from jam.files import FileError, open_regular, reading

INDEX = ".metadata"
PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
OF_DCP = "torch.distributed.checkpoint."
CLASSES = {
    f"{OF_DCP}metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties"),
        *("ChunkStorageMetadata", "BytesStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
    f"{OF_DCP}filesystem": ("_StorageInfo",),
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),  # finds the layout "torch.strided"
    "pathlib": PATHS,  # the place where the checkpoint was written
    "pathlib._local": PATHS,  # pathlib since Python 3.13
}


class PlainReader(dcp.FileSystemReader):
    """The tensors of a checkpoint's folder.

    Raises:
        FileError: the index cannot be read, or names anything but tensors in files of this folder.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.folder = checkpoint

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = self.folder / INDEX
        with open_regular(path) as file, reading(path):
            index = _Unpickler(file).load()
            self._check(index)
        index.storage_meta = index.storage_meta or StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index

    def _check(self, index: Any) -> None:
        if not isinstance(index, Metadata):
            raise FileError(f"{self.folder / INDEX} is no index of tensors")
        for name, entry in index.state_dict_metadata.items():
            # DCP unpickles entries that are stored as bytes.
            if not (isinstance(entry, TensorStorageMetadata) and isinstance(entry.properties.dtype, torch.dtype)):
                raise FileError(f"{self.folder / INDEX}: {name} is no tensor; jam writes tensors only")
        for entry in index.storage_data.values():
            if Path(entry.relative_path).name != str(entry.relative_path):
                raise FileError(f"{self.folder / INDEX} names {entry.relative_path}, a file of another folder")
            if getattr(entry, "transform_descriptors", None):
                raise FileError(f"{self.folder / INDEX}: {entry.relative_path} is transformed; jam writes plain files")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise ValueError(f"it names {module}.{name}, which no index of tensors holds: it could run code")
