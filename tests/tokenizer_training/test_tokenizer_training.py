"""The image tokenizer's training: what it writes, that it learns, resumes exactly and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from jam.cli import main
from jam.codec import load_image_tokenizer
from jam.codec.coders import DiffusersVQ
from jam.documents import Document, write_documents
from jam.documents import Image as Part
from jam.tokenizer_training import TOKENIZER, PictureSource, TokenizerTrainer, state
from jam.tokenizer_training.codebook import revive_codes, start_codes, usage
from jam.tokenizer_training.losses import LPIPS, VGG16, edge_loss
from jam.tokenizer_training.network import build_tokenizer, decode, encode, quantise
from jam.tokenizer_training.pictures import Pictures, find_pictures, leave_out
from jam.tokenizer_training.quality import psnr, reconstruction_grid, ssim
from jam.tokenizer_training.state import save_state
from jam.training.checkpoint import checkpoints
from support import faults, pictures


def weights(trainer: TokenizerTrainer) -> dict[str, torch.Tensor]:
    models = {"model": trainer.model, "discriminator": trainer.discriminator}
    return {f"{name}.{key}": value for name, model in models.items() for key, value in model.state_dict().items()}


def run_to(trainer: TokenizerTrainer, step: int) -> list[float]:
    """Losses up to a step, where the run is interrupted."""
    losses, running = [], trainer.train()
    for report in running:
        losses.append(report.loss)
        if report.step == step:
            running.close()
            break
    return losses


def test_a_run_writes_a_tokenizer_folder_records_and_reconstructions(tmp_path: Path) -> None:
    source, out = pictures.folder(tmp_path / "pictures"), tmp_path / "run"
    trainer = TokenizerTrainer(pictures.recipe(source, out, validate_every=2, checkpoint_every=3))
    steps = list(trainer.train())
    assert [step.step for step in steps] == list(range(1, 9))
    assert steps[3].adversarial is None and steps[6].discriminator > 0
    tokenizer = load_image_tokenizer(out / TOKENIZER)
    assert (tokenizer.info.kind, tokenizer.info.grid, tokenizer.info.resolution) == ("VQModel", (4, 4), 16)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = records[-1]
    assert {"validation_psnr", "validation_ssim", "validation_code_usage", "validation_code_perplexity"} <= set(last)
    assert last["validation_psnr"] == trainer.report["psnr"] and last["validation_pictures"] == 4
    grids = [path.name for path in sorted((out / "reconstructions").iterdir())]
    assert grids == [f"step-{step:06d}.png" for step in (4, 6, 8)], "after two steps there are no codes to measure yet"
    with Image.open(out / "reconstructions" / "step-000008.png") as grid:
        assert grid.size == (4 * 18 + 2, 2 * 16 + 6)
    assert len(list((out / "checkpoints").iterdir())) == 2 and any((out / "tensorboard").iterdir())


def test_it_learns(tmp_path: Path) -> None:
    source = pictures.folder(tmp_path / "pictures", 40)
    settings = {"steps": 60, "batch_size": 8, "adversarial_weight": 0.0, "codebook_from": 10, "revive_every": 10}
    trainer = TokenizerTrainer(pictures.recipe(source, tmp_path / "run", beta1=0.9, **settings))
    losses = [report.loss for report in trainer.train()]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert trainer.report["codes_used"] > 4


def test_training_and_codec_agree(tmp_path: Path) -> None:
    """What is measured is what the codec gives: same codes, same pictures."""
    config = pictures.recipe(tmp_path, tmp_path / "run")
    model = build_tokenizer(config).eval()
    pixels = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        quantised, _, codes = quantise(model, encode(model, pixels))
        assert torch.equal(DiffusersVQ.encode(model, pixels).flatten(), codes)
        torch.testing.assert_close(DiffusersVQ.decode(model, codes.view(3, 4, 4)), decode(model, quantised))


def test_codes_move_four_times_as_much_as_latents(tmp_path: Path) -> None:
    """The loss has the codebook's part whole and a quarter of the commitment (VQ-VAE, equation 3)."""
    model = build_tokenizer(pictures.recipe(tmp_path, tmp_path / "run"))
    latents = torch.randn(2, model.config.vq_embed_dim, 3, 3, requires_grad=True)
    _, loss, codes = quantise(model, latents)
    loss.backward()
    difference = latents.detach().permute(0, 2, 3, 1).flatten(0, 2) - model.quantize.embedding.weight.detach()[codes]
    factor = 2 / difference.numel()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad.permute(0, 2, 3, 1).flatten(0, 2), 0.25 * factor * difference)
    of_codes = torch.zeros_like(model.quantize.embedding.weight).index_add(0, codes, -factor * difference)
    torch.testing.assert_close(model.quantize.embedding.weight.grad, of_codes)


@pytest.mark.parametrize("step", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_exactly(tmp_path: Path, step: int) -> None:
    """Before codes begin, behind their revival, and with the discriminator."""
    source = pictures.folder(tmp_path / "pictures")
    whole = TokenizerTrainer(pictures.recipe(source, tmp_path / "whole"))
    losses = [report.loss for report in whole.train()]
    first = TokenizerTrainer(pictures.recipe(source, tmp_path / "run"))
    assert run_to(first, step) == losses[:step]
    again = TokenizerTrainer(pictures.recipe(source, tmp_path / "run", resume=True))
    assert [report.loss for report in again.train()] == losses[step:]
    ours = weights(again)
    assert [key for key, value in weights(whole).items() if not torch.equal(value, ours[key])] == []
    recorded = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in recorded if "loss" in line] == losses


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    source, run = pictures.folder(tmp_path / "pictures"), tmp_path / "run"
    run_to(TokenizerTrainer(pictures.recipe(source, run)), 2)
    for left in (run / "checkpoints" / ".step-000003.partial-17", run / f".{TOKENIZER}.partial-17"):
        left.mkdir()
        (left / "state.safetensors").write_bytes(b"half")
    run_to(TokenizerTrainer(pictures.recipe(source, run, resume=True)), 3)
    assert not list(run.rglob("*.partial*"))
    assert [path.name for path in checkpoints(run)] == ["step-000002", "step-000003"]


def test_an_old_checkpoint_goes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its files are removed, it does not look like a whole one."""
    for step in (1, 2):
        save_state(tmp_path, step, {"x": torch.zeros(1)}, {}, keep=0)

    def killed(folder: Path) -> None:
        assert folder.name.startswith(".")
        raise KeyboardInterrupt

    monkeypatch.setattr("jam.training.checkpoint.shutil.rmtree", lambda path, *_, **more: more or killed(path))
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, 3, {"x": torch.zeros(1)}, {}, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002", "step-000003"]


def test_no_space_left_keeps_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, run = pictures.folder(tmp_path / "pictures"), tmp_path / "run"
    steps = TokenizerTrainer(pictures.recipe(source, run, checkpoint_every=2)).train()
    for _ in range(3):
        next(steps)

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        faults.full_disk()

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(ValueError, match=r"the disk is full: cannot write .*step-000004"):
        list(steps)
    monkeypatch.undo()
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]
    assert next(TokenizerTrainer(pictures.recipe(source, run, resume=True)).train()).step == 3


def test_resume_refuses_another_recipe_and_lists_the_differences(tmp_path: Path) -> None:
    source = pictures.folder(tmp_path / "pictures")
    run_to(TokenizerTrainer(pictures.recipe(source, tmp_path / "run")), 2)
    with pytest.raises(ValueError, match="pass --resume"):
        next(TokenizerTrainer(pictures.recipe(source, tmp_path / "run")).train())
    pictures.smooth_picture(np.random.default_rng(9)).save(source / "another.png")
    other = pictures.recipe(source, tmp_path / "run", resume=True, lr=1e-3)
    with pytest.raises(ValueError, match=r"lr was 0.003 and is 0.001; number of pictures was 20 and is 21"):
        next(TokenizerTrainer(other).train())


def test_accumulation_is_the_whole_batch(tmp_path: Path) -> None:
    source = pictures.folder(tmp_path / "pictures")
    runs = [
        TokenizerTrainer(pictures.recipe(source, tmp_path / name, micro_batch_size=size, adversarial_weight=0.0))
        for name, size in (("whole", 4), ("halves", 2))
    ]
    first, second = (trainer.train_step() for trainer in runs)
    assert first.loss == pytest.approx(second.loss, rel=1e-5)
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-4)


def test_batches_are_functions_of_seed_and_step(tmp_path: Path) -> None:
    found = find_pictures([PictureSource(str(pictures.folder(tmp_path / "pictures")))])
    first, second = (Pictures(found, 16, seed=3, flip=True, workers=workers) for workers in (1, 3))
    expected = [first.batch(step, 5) for step in range(4)]
    assert torch.equal(second.batch(3, 5), expected[3]) and torch.equal(second.batch(1, 5), expected[1])
    assert not torch.equal(expected[0], expected[1])
    assert not torch.equal(Pictures(found, 16, seed=4).batch(0, 5), expected[0])


def test_weights_of_sources(tmp_path: Path) -> None:
    sources = [pictures.folder(tmp_path / name, 6, seed) for seed, name in enumerate(("a", "b"))]
    found = find_pictures([PictureSource(str(sources[0]), 9.0), PictureSource(str(sources[1]), 1.0)])
    drawn = Pictures(found, 16)
    rng = np.random.default_rng(0)
    places = np.searchsorted(drawn._ends, rng.random(2000), side="right")
    assert (places < 6).mean() == pytest.approx(0.9, abs=0.03)


def test_pictures_left_out_are_not_learnt(tmp_path: Path) -> None:
    """By name, wherever they lie, so that a copy of one is left out too."""
    source = pictures.folder(tmp_path / "pictures")
    for path in list(source.glob("*.png")):
        (source / "copies" / path.name).parent.mkdir(exist_ok=True)
        (source / "copies" / path.name).write_bytes(path.read_bytes())
    learnt, measured = leave_out(find_pictures([PictureSource(str(source))]), 5, seed=0)
    assert len(measured) == 5
    assert not {picture.key for picture in learnt} & {picture.key for picture in measured}
    given = pictures.recipe(source, tmp_path / "run", validation=[PictureSource(str(source / "more"))], held_out=99)
    trainer = TokenizerTrainer(given)
    assert (len(trainer.held), len(trainer.pictures)) == (8, 32)


def test_documents_are_sources(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = [Document(content=[Part(pixels=pictures.smooth_picture(rng)), Part(codes=[1, 2])]) for _ in range(3)]
    write_documents(tmp_path / "documents.jsonl", drawn)
    found = find_pictures([PictureSource(str(tmp_path / "documents.jsonl"))])
    assert len(found) == 3
    assert Pictures(found, 16).first().shape == (3, 3, 16, 16)


def test_unreadable_pictures_are_counted_listed_and_skipped(tmp_path: Path) -> None:
    source = pictures.folder(tmp_path / "pictures")
    (source / "broken.png").write_bytes(b"no picture")
    (source / "cut.png").write_bytes((source / "0-001.png").read_bytes()[:40])
    trainer = TokenizerTrainer(pictures.recipe(source, tmp_path / "run", steps=12, held_out=2))
    reports = list(trainer.train())
    listed = [json.loads(line) for line in (tmp_path / "run" / "unreadable.jsonl").read_text().splitlines()]
    assert {Path(line["picture"]).name for line in listed} == {"broken.png", "cut.png"}
    assert all("cannot be read" in line["reason"] for line in listed)
    assert {Path(str(one.image.path)).name for one in trainer.pictures.pictures} >= {"broken.png", "cut.png"}
    assert reports[-1].unreadable == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 30}, "choose a multiple of 4"),
        ({"channels": [10, 16]}, r"channels \[10\] cannot be divided into 4 norm_groups"),
        ({"codebook_from": 8}, "no code would be learnt"),
        ({"micro_batch_size": 3}, "no multiple of micro_batch_size 3"),
        ({"lr": 0.0}, "lr is 0.0; it must be positive"),
        ({"held_out": 24}, "none is left to learn from; lower held_out"),
        ({"perceptual_files": ["absent.pth"]}, "absent.pth does not exist"),
        ({"schedule": "cosines"}, "it must be cosine, linear or constant"),
        ({"layers_per_block": 10**9}, "layers_per_block is 1000000000; it must be 32 or less"),
        ({"channels": [16] * 17}, "channels has 17 entries; it must have 16 or less"),
        ({"channels": [16, 2**40]}, "channels has 1099511627776; it must be 16384 or less"),
        ({"codebook_size": 2**62}, "codebook_size is 4611686018427387904; it must be 16777216 or less"),
        ({"patch": 128, "resolution": 512}, "patch is 128; it must be 64 or less"),
        ({"resolution": 2**40}, "resolution is 1099511627776; it must be 32768 or less"),
        (
            {"channels": [2**14] * 16, "resolution": 2**15, "patch": 1},
            "the image tokenizer of this recipe needs .* GiB",
        ),
    ],
)
def test_clear_errors(tmp_path: Path, changes: dict, message: str) -> None:
    source = pictures.folder(tmp_path / "pictures")
    with pytest.raises(ValueError, match=message):
        TokenizerTrainer(pictures.recipe(source, tmp_path / "run", **changes))


def test_errors_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    call = ["train-tokenizer", "--out", str(tmp_path / "run"), "--sources"]
    for source, message in (("empty", "there are no pictures in it"), ("absent", "no such folder or file")):
        assert main([*call, f'[{{"path": "{tmp_path / source}"}}]']) == 1
        assert message in capsys.readouterr().err
    assert main([*call, '[{"pth": "x"}]']) == 2
    assert "did you mean path?" in capsys.readouterr().err
    assert main([*call, "[]"]) == 1
    assert "sources is empty" in capsys.readouterr().err
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(6):
        (broken / f"{number}.png").write_bytes(b"no picture")
    call += [f'[{{"path": "{broken}"}}]', "--resolution", "16", "--patch", "2", "--channels", "[32]", "--held-out", "2"]
    assert main([*call, "--device", "cpu", "--codebook-size", "8"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "run" / TOKENIZER).exists()


def test_psnr_and_ssim() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 24, 24, generator=generator) * 2 - 1
    assert torch.allclose(ssim(pixels, pixels), torch.ones(2), atol=1e-5)
    darker = pixels - 0.2
    assert torch.allclose(psnr(pixels, darker), torch.full((2,), 20.0), atol=1e-3)  # 0.1 of the range
    assert ssim(pixels, -pixels).max() < 0.1
    noisy = pixels + 0.1 * torch.randn(pixels.shape, generator=generator)
    assert 0.5 < ssim(pixels, noisy).min() < 1


def test_grid_shows_pictures_above_their_reconstructions() -> None:
    pixels = torch.ones(3, 3, 4, 4) * torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None]
    sheet = np.asarray(reconstruction_grid(pixels, -pixels, columns=2))
    assert sheet.shape == (2 * 12 + 2, 2 * 6 + 2, 3)
    assert (sheet[2:6, 2:6] == 0).all() and (sheet[6:10, 2:6] == 255).all()
    assert (sheet[14:18, 2:6] == 255).all() and (sheet[18:22, 2:6] == 0).all()


def test_codes_start_at_centres_and_dead_ones_come_back(tmp_path: Path) -> None:
    model = build_tokenizer(pictures.recipe(tmp_path, tmp_path / "run"))
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 4, generator=generator) * 5  # fewer than the 16 codes: each is drawn at the beginning
    latents = centres.repeat(32, 1) + 0.01 * torch.randn(128, 4, generator=generator)
    start_codes(model, latents, torch.Generator().manual_seed(0))
    codebook = model.quantize.embedding.weight
    nearest = torch.cdist(latents, codebook.detach()).amin(1)
    assert nearest.max() < 0.05
    optimizer = torch.optim.Adam(model.parameters())
    codebook.grad = torch.ones_like(codebook)
    optimizer.step()
    used = torch.ones(16, dtype=torch.long)
    used[[3, 7]] = 0
    kept = codebook.detach().clone()
    assert revive_codes(model, used, latents, optimizer, torch.Generator().manual_seed(1)) == 2
    moved = (codebook != kept).any(1)
    assert moved.nonzero()[:, 0].tolist() == [3, 7]
    assert all((latents == codebook[row].detach()).all(1).any() for row in (3, 7))
    assert not optimizer.state[codebook]["exp_avg"][[3, 7]].any() and optimizer.state[codebook]["exp_avg"][0].any()
    assert usage(torch.tensor([2, 2, 0, 0])) == {"codes_used": 2, "code_usage": 0.5, "code_perplexity": 2.0}


def test_lpips_reads_published_names(tmp_path: Path) -> None:
    """Tensors by the names of torchvision's VGG16 and of the LPIPS package; equal pictures are at distance 0."""
    generator = torch.Generator().manual_seed(0)
    vgg, lines, width, index = {}, {}, 3, 0
    for number, widths in enumerate(VGG16):
        index += bool(number)
        for following in widths:
            vgg[f"features.{index}.weight"] = torch.randn(following, width, 3, 3, generator=generator) * 0.05
            vgg[f"features.{index}.bias"] = torch.zeros(following)
            width, index = following, index + 2
        lines[f"lin{number}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    torch.save(lines, tmp_path / "lines.pth")
    save_file(vgg, tmp_path / "vgg.safetensors")
    assert {"features.0.weight", "features.28.weight"} <= vgg.keys()
    lpips = LPIPS([str(tmp_path / "vgg.safetensors"), str(tmp_path / "lines.pth")])
    pixels = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    assert lpips(pixels, pixels) == 0 and lpips(pixels, -pixels) > 0
    with pytest.raises(ValueError, match=r"no tensor features.0.weight"):
        LPIPS([str(tmp_path / "lines.pth")])


def test_edges_cost_blur_not_brightness() -> None:
    pixels = torch.zeros(1, 3, 16, 16)
    pixels[..., 8:] = 1
    blurred = torch.nn.functional.avg_pool2d(pixels, 5, stride=1, padding=2, count_include_pad=False)
    assert edge_loss(pixels + 0.5, pixels) == 0
    assert edge_loss(blurred, pixels) > 0
