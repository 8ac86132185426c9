"""Make the folder of a `ChameleonVQGAN` from ``vqgan.ckpt`` and ``vqgan.yaml``, or from a checkpoint of `transformers`.

The original file is the better source: a Chameleon checkpoint of `transformers` has the encoder alone, and where it is
stored in half precision, some codes come out differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from jam.checkpoints import CheckpointReader, TensorInfo, check_tensors, new_folder
from jam.checkpoints.configs import require_sizes
from jam.checkpoints.plain import load_plain
from jam.codec.chameleon_vqgan import ChameleonVQGAN, ChameleonVQGANConfig
from jam.codec.files import HOLDERS, PREFIXES, inner_config, stored_names
from jam.files import FileError, read_json, read_yaml, reading, reason

# Keys of `ddconfig` and what `transformers` calls them.
FIELDS = {
    "ch": "base_channels",
    "ch_mult": "channel_multiplier",
    "num_res_blocks": "num_res_blocks",
    "attn_resolutions": "attn_resolutions",
    "in_channels": "in_channels",
    "out_ch": "out_channels",
    "resolution": "resolution",
    "z_channels": "latent_channels",
}
# Switches that change the computation or the shapes, at the values that Chameleon's network has.
SWITCHES = {
    "double_z": False,
    "resamp_with_conv": True,
    "tanh_out": False,
    "give_pre_end": False,
    "use_linear_attn": False,
    "remap": None,
}
TRAINING_ONLY = "loss."  # discriminator and perceptual loss


def convert_chameleon(source: str | Path, out: str | Path, description: str | Path | None = None) -> bool:
    """Write a folder with ``config.json`` and ``model.safetensors``; it appears whole or not at all.

    Args:
        source: a ``.ckpt`` file, or the folder of a Chameleon checkpoint of `transformers`.
        out: folder to write; it must not exist.
        description: YAML file of the model, for a ``.ckpt``; default: the one beside it with the same name.

    Returns:
        Whether the result can decode.

    Raises:
        ValueError: a file is missing or of another kind, or the tensors are not what the config asks for.
    """
    source = Path(source)
    if source.is_dir():
        if description:
            raise ValueError(f"{source} is a folder, which its config.json describes; leave {description} out")
        path, (config, tensors) = source / "config.json", read_folder(source)
    else:
        path = Path(description) if description else source.with_suffix(".yaml")
        tensors = read_original(source)
        config = read_description(path)
    with reading(path), torch.device("meta"):
        model = ChameleonVQGAN(config)
    infos = {name: TensorInfo.of(tensor) for name, tensor in tensors.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_tensors(infos, expected, str(source), config=path.name)
    model.load_state_dict(tensors, assign=True)
    with new_folder(out, bytes_needed=sum(info.bytes for info in infos.values())) as folder:
        model.save_pretrained(folder)
    return config.has_decoder


def read_description(path: Path) -> ChameleonVQGANConfig:
    """The config in a YAML file as taming-transformers writes them (``model.params``).

    Raises:
        ValueError: the file or a key is missing, or it describes another kind of network.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the YAML file that describes the model with --yaml")
    try:
        params = read_yaml(path)["model"]["params"]
        require_sizes(params, path)
        network = params["ddconfig"]
        values = {ours: network[theirs] for theirs, ours in FIELDS.items()}
        values |= {"num_embeddings": params["n_embed"], "embed_dim": params["embed_dim"]}
        config = ChameleonVQGANConfig(**values, attn_type=network.get("attn_type", "vanilla"))
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error}; expected model.params with n_embed, embed_dim and ddconfig, which has "
            f"{', '.join(FIELDS)}"
        ) from None
    except (TypeError, AttributeError, StrictDataclassError) as error:
        raise FileError(f"{path} does not describe a VQGAN ({reason(error)})") from None
    for name, value in SWITCHES.items():
        given = (params | network).get(name, value)
        if given != value:
            raise ValueError(
                f"{path}: {name} is {given!r:.80}; only the network of Chameleon is known, which has {value}"
            )
    if config.attn_type not in ("vanilla", "none"):
        raise ValueError(f"{path}: attn_type is {config.attn_type!r}; known: vanilla, none")
    return config


def read_original(path: Path) -> dict[str, Tensor]:
    """The tensors of a Lightning checkpoint, or of a bare file of tensors, by name; without the tensors of training.

    Raises:
        ValueError: there is no such file, or it holds more than tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give vqgan.ckpt, or the folder of a Chameleon checkpoint")
    loaded = load_plain(path)
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    named = isinstance(tensors, Mapping) and all(isinstance(tensor, Tensor) for tensor in tensors.values())
    if not named or not tensors:
        raise ValueError(f"{path} holds no tensors by name, neither as 'state_dict' nor as a whole")
    return {name: tensor.contiguous() for name, tensor in tensors.items() if not name.startswith(TRAINING_ONLY)}


def read_folder(folder: Path) -> tuple[ChameleonVQGANConfig, dict[str, Tensor]]:
    """Config and tensors of the image tokenizer inside a Chameleon checkpoint of `transformers`.

    Raises:
        ValueError: it is no such checkpoint, or its image tokenizer was left out.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; of an original checkpoint name the .ckpt file itself")
    if (model_type := read_json(path).get("model_type")) != "chameleon":
        raise ValueError(f"{folder} is a checkpoint of {model_type!r}; known: chameleon, {', '.join(HOLDERS)}")
    reader = CheckpointReader(folder)
    tensors = {name: reader.read(stored) for name, stored in stored_names(reader).items()}
    if not tensors:
        raise ValueError(
            f"{folder} holds no image tokenizer: none of its tensors begins with {PREFIXES[0]}; convert the original "
            "vqgan.ckpt instead"
        )
    vq = inner_config(folder)
    known = (*FIELDS.values(), "num_embeddings", "embed_dim", "attn_type")
    values = {name: getattr(vq, name) for name in known if hasattr(vq, name)}
    has_decoder = any(name.startswith("decoder.") for name in tensors)
    return ChameleonVQGANConfig(**values, has_decoder=has_decoder), tensors
