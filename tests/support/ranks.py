"""Runs of one process and of several, for tests to compare.

Processes are forked from the test's own, which has imported everything, since that takes longer than the runs. The
result of a run is ``OUT/NAME.pt``.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytest import MonkeyPatch
from torch.distributed.tensor import DTensor

from jam.training import Trainer
from jam.training import checkpoint as checkpoint_module
from jam.training import trainer as trainer_module
from jam.training.checkpoint import checkpoints
from jam.training.distributed import World, join, leave, whole
from jam.training.records import Records
from support import faults
from support.runs import trainer, write_corpora

STEPS = 20
LIMIT = 200  # seconds after which a process counts as hanging
BATCH = {"batch_tokens": 5 * 64, "micro_batch_size": 1, "validation": [], "steps": STEPS}  # 5: one rank is left over


def start(size: int, function: Callable[..., Any], *arguments: Any, local_size: int | None = None) -> list[Any]:
    """Processes that call `function(world, ...)`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    started = []
    for rank in range(size):
        local = local_size or size
        values = {"RANK": rank, "LOCAL_RANK": rank % local, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": local}
        values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        process = fork.Process(target=_in_process, args=(values, function, arguments))
        process.start()
        started.append(process)
    return started


def _in_process(values: dict[str, Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {name: str(value) for name, value in values.items()}
    torch.set_num_threads(1)
    function(join("cpu"), *arguments)
    leave()


def on(size: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    assert ended(start(size, function, *arguments, **options)) == [0] * size, function


def ended(processes: list[Any], seconds: float = LIMIT) -> list[int]:
    """Exit statuses of processes; one that hangs is killed."""
    for process in processes:
        process.join(seconds)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def save(world: World, path: Path, value: Any) -> None:
    if world.is_first:
        torch.save(value, path)


def perturbed(world: World, out: Path, name: str, changes: dict[str, Any]) -> Trainer:
    """A trainer whose cross blocks and adapters do something: new ones give zero, and no gradient to compare."""
    prepare_layers = trainer_module.prepare_layers

    def preparing(model: torch.nn.Module, config: Any) -> None:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.startswith(("to_text.", "to_image.")) or ".lora_B." in parameter_name:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        prepare_layers(model, config)

    trainer_module.prepare_layers = preparing
    try:
        return trainer(out / "shards", out / name, world=world, **(BATCH | changes))
    finally:
        trainer_module.prepare_layers = prepare_layers


def run(world: World, out: Path, name: str, changes: dict[str, Any]) -> None:
    """Losses of all steps, gradients of the first, and what the reports say."""
    gradients: dict[str, torch.Tensor] = {}
    clip = trainer_module.clip

    def recording(parameters: Any, *arguments: float) -> None:
        if not gradients:
            gradients.update({name: whole(parameter.grad).clone() for name, parameter in parameters.items()})
        clip(parameters, *arguments)

    trainer_module.clip = recording
    made = perturbed(world, out, name, changes)
    trainable = sorted(made.parameters)
    reports = list(made.train())
    result = {"losses": [report.loss for report in reports], "gradients": gradients, "trainable": trainable}
    result["state"] = sorted({names for optimizer in made.optimizers for names in _names(made.parameters, optimizer)})
    result["share"] = sum(map(held, made.parameters.values())) / sum(p.numel() for p in made.parameters.values())
    result["reports"] = [report.record() | {"seconds": 0} for report in reports]
    save(world, out / f"{name}.pt", result)


def held(parameter: torch.Tensor) -> int:
    """Values that this process has."""
    return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()


def _names(parameters: dict[str, Any], optimizer: torch.optim.Optimizer) -> list[str]:
    return [name for name, parameter in parameters.items() if parameter in optimizer.state]


def stop(world: World, out: Path, name: str, steps: int, changes: dict[str, Any]) -> None:
    """A run that ends after some steps, with a checkpoint, and goes on no more."""
    made = perturbed(world, out, name, changes)
    for report in made.train():
        if report.step == steps:
            break


def refused(world: World, out: Path, name: str) -> None:
    try:
        trainer(out / "shards", out / name, world=world, batch_tokens=64, micro_batch_size=1)
    except ValueError as error:
        save(world, out / f"{name}.pt", str(error))


def killed(out: Path, size: int, kills: int, steps: int) -> None:
    """The same run twice: once as it is, once killed and resumed `kills` times, at moments drawn at random."""
    name, changes = f"killed-{size}", {"steps": steps, "checkpoint_every": 1, "keep_checkpoints": 1}
    on(size, run, out, f"whole-{size}", {"steps": steps})
    records, rng = out / name / "metrics.jsonl", random.Random(size)
    for _ in range(kills):
        target = lines(records) + rng.choice([0, 1, 1, 2])
        processes = start(size, run, out, name, changes | {"resume": True})
        while lines(records) < target and all(process.is_alive() for process in processes):
            time.sleep(0.001)
        time.sleep(0.1 * rng.random())
        assert all(process.is_alive() for process in processes), "it ended before it was killed"
        ended(processes, 0)
    on(size, run, out, name, changes | {"resume": True})


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def terminated(out: Path) -> None:
    """SIGTERM to one of two processes."""
    name, changes = "terminated", {"steps": 200, "checkpoint_every": 0}
    processes = start(2, run, out, name, changes)
    while lines(out / name / "metrics.jsonl") < 2 and all(process.is_alive() for process in processes):
        time.sleep(0.001)
    os.kill(processes[1].pid, signal.SIGTERM)
    torch.save(ended(processes), out / "terminated.pt")


def failing(world: World, out: Path, name: str, rank: int) -> None:
    """A run of which one process fails alone in step 3, while the checkpoint of step 2 is being written."""
    made = trainer(out / "shards", out / name, world=world, **(BATCH | {"steps": 6, "checkpoint_every": 2}))
    write = checkpoint_module.dcp.FileSystemWriter.write_data

    def slow_write(*arguments: Any) -> Any:
        time.sleep(1)
        return write(*arguments)

    def gone(*_: Any) -> None:
        assert not checkpoints(made.run)
        raise OSError("a shard is gone")

    checkpoint_module.dcp.FileSystemWriter.write_data = slow_write
    faults.at_call(MonkeyPatch(), made, "_loss", gone, when=lambda batch: made.step == 2 and world.rank == rank)
    try:
        list(made.train())
    except Exception as error:
        torch.save((type(error).__name__, str(error)), out / f"{name}-{world.rank}.pt")


def full(world: World, out: Path, name: str) -> None:
    """The same, where the first process cannot write the record of step 3 down."""

    def is_due(records: Records, values: dict[str, Any]) -> bool:
        return values["step"] == 3 and records.file is not None

    faults.at_call(MonkeyPatch(), Records, "write", faults.full_disk, when=is_due)
    failing(world, out, name, rank=-1)


FAST: dict[str, dict[str, Any]] = {
    "all": {"parent": {"dropout": 0.3}, "activation_checkpointing": True, "z_loss": 1e-3, "max_logits": 3000},
}
SLOW: dict[str, dict[str, Any]] = {
    "lora": {"train": "lora", "lora_rank": 4},
    "muon": {"optimizer": "muon"},
    "cross": {"train": "cross"},
    "plain": {},
    "single": {"kind": "single"},
    "paper": {"parent": {"readout": "paper"}},
}


def fast(out: Path) -> None:
    few = {"steps": 4, "warmup_steps": 1}
    for name, changes in FAST.items():
        on(1, run, out, f"{name}-1", few | changes)
        on(2, run, out, f"{name}-2", few | changes)
    on(2, stop, out, "resumed-2-1", 3, few | FAST["all"])
    on(1, run, out, "resumed-2-1", few | FAST["all"] | {"resume": True})
    on(2, refused, out, "refused")
    killed(out, 1, kills=1, steps=4)
    terminated(out)


def slow(out: Path) -> None:
    for name, changes in (FAST | SLOW).items():
        on(1, run, out, f"{name}-1", changes)
        on(2, run, out, f"{name}-2", changes)
    on(4, run, out, "hybrid-4", {"sharding": "hybrid"}, local_size=2)
    on(4, run, out, "hybrid-muon-4", {"sharding": "hybrid", "optimizer": "muon"}, local_size=2)
    validated = {"validation": [str(out / "shards" / "held")], "validate_every": 3, "steps": 6}
    for size in (1, 2):
        on(size, run, out, f"bf16-{size}", {"precision": "bf16"})
        on(size, run, out, f"validated-{size}", validated)
    for before, after in ((1, 2), (2, 1), (2, 2)):
        on(before, stop, out, f"resumed-{before}-{after}", 7, {})
        on(after, run, out, f"resumed-{before}-{after}", {"resume": True})
    killed(out, 1, kills=20, steps=60)
    killed(out, 2, kills=20, steps=60)


def ends(out: Path) -> None:
    """Processes that have not ended after a minute count as hanging."""
    for name, function, *more in (("second", failing, 1), ("full", full)):
        torch.save(ended(start(2, function, out, name, *more), 60), out / f"{name}.pt")


def results(out: Path, runs: Callable[[Path], None]) -> Path:
    """The folder, with the results of `fast`, `slow` or `ends`."""
    write_corpora(out / "shards")
    runs(out)
    return out
