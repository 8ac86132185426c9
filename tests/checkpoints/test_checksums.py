"""Files that are not as they were written: found by checksums, and named."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jam
from jam.api.loading import load_codec
from jam.checkpoints import Manifest
from jam.checkpoints.checksums import checksum_of, joined, read_sealed, write_sealed
from jam.cli import main
from jam.data import Shards
from jam.files import FileError
from jam.training.checkpoint import checkpoints
from support import tiny
from support.fusion_parents import llama_config, save_pair
from support.fusion_parents import run as fuse
from support.runs import trainer, write_corpora

WEIGHTS = "model.safetensors"


def flip(path: Path, place: int | None = None, bit: int = 0) -> None:
    """Flip one bit; by default in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1 << bit
    path.write_bytes(content)


def flipped(folder: Path, out: Path, name: str, rng: random.Random) -> Path:
    """A copy with one bit flipped at random in a file."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    flip(out / name, rng.randrange((out / name).stat().st_size), rng.randrange(8))
    return out


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_checksum_of_two_texts_behind_one_another() -> None:
    rng = random.Random(0)
    for _ in range(50):
        first, second = (rng.randbytes(rng.randrange(3000)) for _ in range(2))
        assert joined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_a_sealed_file(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_sealed(path, {"b": [1, 2.5, None], "a": "ü"})
    assert read_sealed(path, "write it again") == {"b": [1, 2.5, None], "a": "ü"}
    path.write_text(path.read_text().replace("2.5", "3.5"))
    with pytest.raises(
        FileError, match=r'values.json is not as it was written: .*; write it again; .* set its "checksum" to null'
    ):
        read_sealed(path, "write it again")
    path.write_text('{"checksum": "a\\nb"}')
    with pytest.raises(FileError, match=r"its checksum is [0-9a-f]{8}, and it says 'a\\nb'; write it again"):
        read_sealed(path, "write it again")
    path.write_text('{"a": 1}')  # of an earlier version
    assert read_sealed(path, "") == {"a": 1}


# --- model folders ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny.model(tmp_path_factory.mktemp("made") / "model")
    out = tmp_path_factory.mktemp("saved") / "model"
    out.mkdir()
    made.save(out)
    return out


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_every_file_has_its_checksum(saved: Path) -> None:
    recorded = Manifest.load(saved).checksums
    assert sorted([*recorded, "manifest.json"]) == files_of(saved)
    assert all(checksum_of(saved / name) == checksum for name, checksum in recorded.items())
    assert Manifest.load(saved).changed(saved) == []


def test_a_fused_folder_of_several_files_has_them(tmp_path: Path) -> None:
    """Those of the weights are put together while these are written, and that of config.json, which comes last."""
    save_pair(tmp_path, llama_config)
    fuse(tmp_path, shard_mb=0.02)
    folder = tmp_path / "out"
    recorded = Manifest.load(folder).checksums
    assert len([name for name in recorded if name.endswith(".safetensors")]) > 1
    assert sorted([*recorded, "manifest.json", "README.md"]) == files_of(folder)
    assert all(checksum_of(folder / name) == checksum for name, checksum in recorded.items())


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer/tokenizer.json", "image_tokenizer/diffusion_pytorch_model.safetensors"]
)
def test_what_decides_how_a_model_reads_and_writes_is_compared(copy: Path, name: str) -> None:
    flip(copy / name)
    for load in (jam.load, load_codec):
        with pytest.raises(FileError, match=rf"{name}: not as manifest.json says it was written; get the folder anew"):
            load(copy)


def test_a_file_that_is_gone_is_named(copy: Path) -> None:
    (copy / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(FileError, match=r"tokenizer/tokenizer_config.json \(missing\): not as manifest.json"):
        jam.load(copy)


def test_weights_are_compared_where_one_asks_for_it(copy: Path, capsys: Any) -> None:
    flip(copy / WEIGHTS, -3)
    jam.load(copy)
    with pytest.raises(FileError, match=WEIGHTS):
        jam.load(copy, check=True)
    assert main(["generate", str(copy), "A house", "--check", "--device", "cpu"]) == 1
    assert f"{WEIGHTS}: not as manifest.json says" in capsys.readouterr().err


def test_defaults_of_generation_may_be_changed(copy: Path) -> None:
    path = copy / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.5}))
    assert jam.load(copy, check=True).settings.temperature == 0.5
    assert Manifest.load(copy).changed(copy) == ["generation_config.json"]


def test_a_manifest_that_was_changed(copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"image_grid"', '"image_grid" ').replace('"cross"', '"crosS"'))
    with pytest.raises(FileError, match=r"manifest.json is not as it was written"):
        jam.load(copy)


def test_a_folder_of_an_earlier_version(copy: Path) -> None:
    path = copy / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in values.items() if not name.startswith("checksum")}))
    flip(copy / WEIGHTS, -3)
    assert jam.load(copy, check=True).manifest.checksums == {}


def zeroed(folder: Path) -> str:
    """The image tokenizer writes black pictures."""
    from safetensors.torch import load_file, save_file

    name = "image_tokenizer/diffusion_pytorch_model.safetensors"
    save_file({key: tensor * 0 for key, tensor in load_file(folder / name).items()}, folder / name)
    return name


def exchanged(folder: Path) -> str:
    """Two texts have each other's ids."""
    path = folder / "tokenizer" / "tokenizer.json"
    spec = json.loads(path.read_text())
    vocabulary = spec["model"]["vocab"]
    first, second = [name for name in vocabulary if name.isalpha()][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(spec))
    return "tokenizer/tokenizer.json"


@pytest.mark.parametrize("change", [zeroed, exchanged])
def test_verify_names_what_no_tensor_shows(copy: Path, change: Any, capsys: Any) -> None:
    name = change(copy)
    assert main(["verify", str(copy), "--device", "cpu"]) == 1
    assert f"{name}: not as manifest.json says" in capsys.readouterr().err


def test_verify_names_the_weights_that_a_bit_was_flipped_in(tmp_path: Path, jam_verify: Any) -> None:
    save_pair(tmp_path, llama_config)
    fuse(tmp_path, every=1)
    flip(tmp_path / "out" / WEIGHTS, -1, bit=1)
    status, printed, report = jam_verify()
    assert (status, report["verdict"], report["changed_files"]) == (1, "not as it was written", [WEIGHTS])
    assert printed.splitlines()[-1].startswith(f"{WEIGHTS}: not as it was written, by the manifest")


# --- token shards ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("data"))


def test_ids_are_compared_beside_the_training(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "data")
    flip(tmp_path / "data" / "train" / "ids.bin")
    made = trainer(tmp_path / "data", tmp_path / "run", steps=3)
    with pytest.raises(FileError, match=r"train/ids.bin is not as it was written: .* run `jam prepare` again"):
        list(made.train())
    assert not (tmp_path / "run" / "model").exists()


def reverse_answers(folder: Path) -> str:
    answers = np.load(folder / "answers.npy")
    np.save(folder / "answers.npy", answers[::-1])
    return "answers.npy"


def shift_offsets(folder: Path) -> str:
    offsets = np.load(folder / "offsets.npy")
    offsets[1] += 1
    np.save(folder / "offsets.npy", offsets)
    return "offsets.npy"


def rename_vocabulary(folder: Path) -> str:
    path = folder / "shards.json"
    path.write_text(path.read_text().replace('"tokens": ', '"tokens": 1'))
    return "shards.json"


@pytest.mark.parametrize("change", [reverse_answers, shift_offsets, rename_vocabulary])
def test_what_lies_beside_the_ids_is_compared_at_once(shards: Path, tmp_path: Path, change: Any) -> None:
    folder = shutil.copytree(shards / "train", tmp_path / "train")
    name = change(folder)
    with pytest.raises(FileError, match=rf"{name} is not as it was written"):
        Shards(folder, tiny.codec().vocabulary)


def test_shards_of_an_earlier_version_are_compared_by_their_digest(shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shards / "train", tmp_path / "train")
    path = folder / "shards.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in values.items() if not name.startswith("checksum")}))
    Shards(folder, tiny.codec().vocabulary).check()
    flip(folder / "ids.bin")
    with pytest.raises(FileError, match="their digest is"):
        Shards(folder, tiny.codec().vocabulary).check()


# --- checkpoints of runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped behind its second step."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    steps = trainer(shards, out, validation=[]).train()
    for _ in range(2):
        next(steps)
    steps.close()
    return out


def test_every_file_of_a_checkpoint_is_compared(run: Path, shards: Path, tmp_path: Path) -> None:
    (checkpoint,) = checkpoints(run)
    assert {".metadata", "run.json"} < set(files_of(checkpoint))
    for name in files_of(checkpoint):
        out = tmp_path / f"run-{name}"
        shutil.copytree(run, out)
        flip(checkpoints(out)[0] / name)
        with pytest.raises(FileError, match=rf"{checkpoint.name}.*{name}|{name}.*{checkpoint.name}"):
            next(trainer(shards, out, validation=[], resume=True).train())


@pytest.mark.parametrize(
    "change", [{"settings": None}, {"step": "2"}, {"checksums": ["x"]}, {"watch": 5}, {"place": None}]
)
def test_a_state_that_says_too_little_is_named(run: Path, shards: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    (checkpoint,) = checkpoints(out)
    path = checkpoint / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checksum": None} | change))
    with pytest.raises(
        FileError, match=rf"{checkpoint.name}.* cannot be read .*; remove .*{checkpoint.name}, and --resume goes on"
    ):
        next(trainer(shards, out, validation=[], resume=True).train())


def test_a_recipe_that_was_changed_is_not_exported(run: Path, shards: Path, tmp_path: Path, capsys: Any) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    made = tiny.model(tmp_path / "made")
    (tmp_path / "model").mkdir()
    made.save(tmp_path / "model")
    path = out / "recipe.json"
    path.write_text(path.read_text().replace('"stage": "aligned"', '"stage": "instructed"'))
    assert main(["export", str(out), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "exported")]) == 1
    assert "stage was aligned and is instructed" in capsys.readouterr().err


# --- at random -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_single_flipped_bits(saved: Path, shards: Path, run: Path, tmp_path: Path) -> None:
    """1,000 in all: each is named, or changes nothing that is read."""
    rng = random.Random(0)

    def of_model(folder: Path) -> None:
        jam.load(folder, check=True)

    def of_shards(folder: Path) -> None:
        Shards(folder, tiny.codec().vocabulary).check()

    def of_run(folder: Path) -> None:
        next(trainer(shards, folder, validation=[], resume=True).train())

    silent = []
    for kind, folder, read, count in (
        ("model", saved, of_model, 450),
        ("shards", shards / "train", of_shards, 450),
        ("run", run, of_run, 100),
    ):
        names = [name for name in files_of(folder) if name not in UNREAD and not name.startswith("tensorboard")]
        names = [name for name in names if (folder / name).stat().st_size]
        for number in range(count):
            name = names[number % len(names)]
            out = flipped(folder, tmp_path / kind, name, rng)
            try:
                read(out)
            except FileError as error:
                assert Path(name).name in str(error), (name, error)
            else:
                if (folder / name).suffix != ".json" or as_json(out / name) != as_json(folder / name):
                    silent.append((kind, name))
    assert silent == []


def as_json(path: Path) -> Any:
    """The value, whatever its spaces; None where there is none any more."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


# Records, and what other programs read.
UNREAD = ("metrics.jsonl", ".lock", "recipe.json", "generation_config.json")
