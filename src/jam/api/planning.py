"""The needs of a training run before it runs."""

from __future__ import annotations

from jam.planning import Plan, find_gpu, make_plan
from jam.planning.network import read_config
from jam.training import TrainConfig


def plan(
    config: TrainConfig,
    gpus: int = 1,
    gpu: str = "h100-80gb",
    *,
    mfu: float = 0.45,
    image_share: float = 0.5,
    tokens: int | None = None,
    gpus_per_node: int = 8,
) -> Plan:
    """Memory, operations and time of a run, from the ``config.json`` of the recipe's model alone.

    Args:
        gpus: number of GPUs.
        gpu: a name in `jam.planning.GPUS`.
        mfu: model FLOPs utilisation of a GPU, above 0 to 1.
        image_share: share of image tokens in the data, 0 to 1.
        tokens: tokens of the whole run; None: the recipe's steps times its batch.
        gpus_per_node: GPUs that share parameters if the recipe's sharding is hybrid.

    Raises:
        ValueError: the recipe does not fit the model or the number of GPUs, or the GPU is not known.

    >>> config = jam.TrainConfig(
    ...     model=str(jam.PARENTS / "image"), out="run", sources=[jam.DataSource("shards")], steps=9, batch_tokens=4096
    ... )
    >>> jam.plan(config, gpu="l4-24gb").fits
    True
    """
    return make_plan(read_config(config.model), config, find_gpu(gpu), gpus, mfu, image_share, tokens, gpus_per_node)
