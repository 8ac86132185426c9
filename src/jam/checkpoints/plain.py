"""A reader of files that torch pickled, which runs no code from the files."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from jam.checkpoints.weights import damaged
from jam.files import FileError, open_regular, reason


def load_plain(path: Path, mmap: bool = False) -> Any:
    """The plain values and tensors of a file of `torch.save`, on the CPU.

    Args:
        mmap: leave the tensors on the disk until they are used; files older than torch 1.6 are read into memory.

    Raises:
        FileError: the file is damaged, or holds other objects, whose unpickling could run code.
    """
    import torch

    open_regular(path).close()
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if found := re.search(r"(?:GLOBAL|class|global:?) ([\w.]+\.[\w.]+)", str(error)):
            raise FileError(
                f"{path} holds more than tensors ({found[1]}), and is not unpickled, since that could run code; "
                "where you trust it, save its tensors alone, with safetensors.torch.save_file"
            ) from None
        raise damaged(path, "torch cannot load it (UnpicklingError)") from None
    except Exception as error:  # torch raises any error for a damaged file
        raise damaged(path, f"torch cannot load it ({reason(error)})") from None
