"""Parents whose weights are not plain numbers: 8 and 4 bits with scales beside them, or types that are no weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jam.checkpoints import TensorInfo

PLAIN = ("F64", "F32", "F16", "BF16")
# What stands beside quantised weights: GPTQ and AWQ, bitsandbytes, compressed-tensors and fp8, mxfp4, quanto.
BESIDE = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|quant_state\.\w+|weight_scale(_inv|_2)?|weight_packed"
    r"|weight_zero_point|(input|activation|k|v)_scale|\w+_blocks|\w+_scales|weight\._data|weight\._scale)"
)
ORIGINAL = "take the model that it was made from, which its card names, in float32, float16 or bfloat16"
AGAIN = "save it again as plain weights: load it in transformers with {}, then save_pretrained"
REMEDIES = {
    "bitsandbytes": AGAIN.format("AutoModelForCausalLM, call model.dequantize()"),
    "fp8": AGAIN.format("quantization_config=FineGrainedFP8Config(dequantize=True)"),
    "mxfp4": AGAIN.format("quantization_config=Mxfp4Config(dequantize=True)"),
    "compressed-tensors": AGAIN.format("quantization_config=CompressedTensorsConfig(run_compressed=False)"),
}


def without_quantization(config: Any) -> dict[str, Any] | None:
    """Take ``quantization_config`` out of a config and its parts; what it said, None where there was none."""
    said = None
    for one in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        if (found := getattr(one, "quantization_config", None)) is not None:
            del one.quantization_config
            said = found if isinstance(found, dict) else found.to_dict()
    return said


def refuse_quantized(
    owner: str, infos: Mapping[str, TensorInfo], needed: Mapping[str, str], said: dict[str, Any] | None
) -> None:
    """Raises ValueError unless the tensors that a decoder needs are plain numbers.

    Args:
        owner: names the parent.
        infos: all tensors of its files.
        needed: names of the decoder's tensors, and those that they have in the files.
        said: its ``quantization_config``, None: it has none.
    """
    beside = [name for name in infos if BESIDE.fullmatch(name)]
    odd = [file_name for file_name in needed.values() if infos[file_name].kind not in PLAIN]
    if not beside and not odd:
        return
    method = (said or {}).get("quant_method") or (
        "fp8" if any(name.endswith("_scale_inv") for name in beside) else None
    )
    shown = ", ".join(f"{name} of {infos[name].kind}" for name in sorted(odd or beside)[:3])
    how = f" ({method})" if method else ""
    raise ValueError(
        f"{owner} has weights that are quantised{how} or no weights at all, and are not fused: "
        f"{len(odd) or len(beside)} tensors such as {shown}; {REMEDIES.get(str(method), ORIGINAL)}"
    )
