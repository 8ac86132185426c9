"""Files that torch pickled, read without running anything that they hold."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from jam.checkpoints.weights import damaged
from jam.files import FileError, open_regular, reason


def load_plain(path: Path, mmap: bool = False) -> Any:
    """What a file of `torch.save` holds, where that is plain values and tensors only, on the CPU.

    Args:
        mmap: leave the tensors on the disk until they are used; a file older than torch 1.6 is in memory as a whole.

    Raises:
        FileError: it is damaged, or holds more, which is never unpickled: that could run code.
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
    except Exception as error:  # of damaged files, torch raises what comes
        raise damaged(path, f"torch cannot load it ({reason(error)})") from None
