"""Refusal of parents whose weights are no plain numbers: 8 and 4 bits with scales, or types that are no weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jam.checkpoints import TensorInfo

PLAIN = ("F64", "F32", "F16", "BF16")
# Tensors that accompany quantised weights: GPTQ and AWQ, bitsandbytes, compressed-tensors and fp8, mxfp4, quanto.
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
    """Remove ``quantization_config`` from a config and its parts, and return it; None if there was none."""
    said = None
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        if (found := getattr(part, "quantization_config", None)) is not None:
            del part.quantization_config
            said = found if isinstance(found, dict) else found.to_dict()
    return said


def refuse_quantized(
    owner: str, infos: Mapping[str, TensorInfo], needed: Mapping[str, str], said: dict[str, Any] | None
) -> None:
    """Raises ValueError unless the tensors that a decoder needs are plain numbers.

    Args:
        owner: the parent, in messages.
        infos: all tensors of the parent's files.
        needed: names in the files by names of the decoder's tensors.
        said: the parent's ``quantization_config``, if any.
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
