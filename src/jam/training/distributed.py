"""The processes of a run: a single process, or several from `torchrun` that divide the parameters (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from jam.checkpoints.devices import choose_device
from jam.models import JointModel

TIMEOUT = timedelta(minutes=30)  # long enough for a validation or an export of the first process


@dataclass(frozen=True)
class World:
    """This process among the processes of the run.

    Args:
        rank: number of this process.
        size: number of processes; 1: no process group, and nothing is divided.
        local_size: number of processes on this node.
        device: device of this process.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @cached_property
    def background(self) -> dist.ProcessGroup | None:
        """A group for work in the background of the training (asynchronous checkpoints)."""
        return dist.new_group(backend="gloo", timeout=TIMEOUT) if self.size > 1 else None

    def sum(self, values: list[float]) -> list[float]:
        """Sums over the processes, in float64."""
        if self.size == 1:
            return values
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return summed.tolist()

    def of_first(self, value: Any) -> Any:
        """The value of the first process, on all processes."""
        if self.size == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared)
        return shared[0]

    def on_first(self, function: Callable[[], Any]) -> Any:
        """The result, or error, of a function that the first process alone calls; all processes return or raise it."""
        result, problem = None, None
        if self.is_first:
            try:
                result = function()
            except Exception as error:
                problem = error
        result, problem = self.of_first((result, problem))
        if problem is not None:
            raise problem
        return result

    def turns(self, count: int) -> list[tuple[int, bool]]:
        """This process's numbers below `count`: `rank`, `rank + size`, ..., each marked True.

        All processes have equally many turns, since they compute together; a repeated last number is marked False.
        """
        numbers = range(self.rank, self.rank + -(-count // self.size) * self.size, self.size)
        last = max(0, (count - 1 - self.rank) // self.size * self.size + self.rank)
        return [(min(number, last), number < count) for number in numbers]

    def mesh(self, sharding: Literal["full", "hybrid"]) -> DeviceMesh:
        """All processes in a row, or (hybrid) a grid of nodes with copies and processes with parts.

        Raises:
            ValueError: `sharding` is hybrid, and the nodes have different numbers of processes.
        """
        assert self.device is not None
        if sharding == "full":
            return init_device_mesh(self.device.type, (self.size,), mesh_dim_names=("shard",))
        if self.size % self.local_size:
            raise ValueError(
                f"sharding is hybrid and {self.size} processes are not divided evenly among nodes of "
                f"{self.local_size}; start as many on every node, or choose sharding full"
            )
        shape = (self.size // self.local_size, self.local_size)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))


def join(device: str | None = None) -> World:
    """Join the processes of `torchrun`, if `torchrun` started this process; each process takes its own GPU.

    Args:
        device: "cpu" to compute without the GPUs of the machine.

    Raises:
        ValueError: the device does not exist.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    on_gpu = torch.cuda.is_available() and device != "cpu"
    local_rank = int(os.environ["LOCAL_RANK"])
    place = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    if device is not None:
        choose_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return World(dist.get_rank(), dist.get_world_size(), local_size, place)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(model: JointModel, world: World, sharding: Literal["full", "hybrid"], bf16: bool) -> None:
    """Divide the parameters of `model` in place: a unit for every layer pair, and a unit for the rest.

    Gradients are summed over the processes, not averaged: each process divides by the weight of the global batch.
    """
    options: dict[str, Any] = {"mesh": world.mesh(sharding)}
    if bf16:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for pair in model.layer_pairs():
        fully_shard(pair, **options)
    root: Any = fully_shard(model, reshard_after_forward=False, **options)  # `logits` reads it after `hidden`
    register_fsdp_forward_method(root, "hidden")
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def reshard(model: nn.Module) -> None:
    """Divide again the parameters that a forward pass without a backward pass left whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be divided; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
