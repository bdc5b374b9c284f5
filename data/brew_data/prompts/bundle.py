"""All that turns records into token ids, as one unit with a digest: it travels from the data to every served version.

tokenizer.json          the tokenizer
tokenizer_config.json   the same for transformers and vLLM
suite.json              tasks, surfaces and templates (`TaskSuite.to_dict`)
prompt.json             token budget, control tokens, the digest; written last
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.control_tokens import ControlTokens
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.prompts.tokenizer_file import file_digest
from brew_platform.config import config_digest, load_config
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = ["PROMPT_FILE", "PromptBundle"]

FORMAT_VERSION = 1
PROMPT_FILE, SUITE_FILE = "prompt.json", "suite.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptBundle:
    """Suite, prompt format and tokenizer. Data, model and server fit together if their bundles have the same digest.

    Args:
        suite: Surfaces, tasks and templates.
        format: The token budget of a prompt.
        tokenizer: The tokenizer of the model that reads the prompts.
    """

    suite: TaskSuite
    format: PromptFormat
    tokenizer: Tokenizer

    @staticmethod
    def of(compiler: PromptCompiler) -> "PromptBundle":
        """Return the bundle of a compiler."""
        return PromptBundle(suite=compiler.suite, format=compiler.format, tokenizer=compiler.tokenizer)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) over suite, prompt format, control tokens and tokenizer."""
        return config_digest(
            {
                "format_version": FORMAT_VERSION,
                "suite": self.suite.to_dict(),
                "format": asdict(self.format),
                "control_tokens": asdict(self.tokenizer.control_tokens),
                "tokenizer": self.tokenizer.digest,
            }
        )

    def compiler(self, history: Mapping[str, HistoryPolicy] = MappingProxyType({})) -> PromptCompiler:
        """Build the compiler.

        Args:
            history: Policies that replace those of the suite, by task; they are not part of the bundle.

        Raises:
            UserError, ConfigError: As `PromptCompiler`.
        """
        return PromptCompiler(self.suite, self.tokenizer, self.format, history)

    def save(self, folder: Path) -> None:
        """Write the files of the bundle, `prompt.json` last.

        Args:
            folder: Created if it does not exist; may contain a model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROMPT_FILE).unlink(missing_ok=True)  # a mix of two bundles must not look complete
        self.tokenizer.save(folder)
        replace_atomically(folder / SUITE_FILE, json.dumps(self.suite.to_dict(), indent=1, ensure_ascii=False))
        content = {
            "format_version": FORMAT_VERSION,
            "format": asdict(self.format),
            "control_tokens": asdict(self.tokenizer.control_tokens),
            "base_tokenizer": self.tokenizer.base_digest,
            "digest": self.digest,
        }
        replace_atomically(folder / PROMPT_FILE, json.dumps(content, indent=1, ensure_ascii=False))

    def require_bins(self, prompt_digest: str, folder: str) -> None:
        """Check that the documents of packed bins were compiled with this bundle.

        Args:
            prompt_digest: Of the plan of the bins.
            folder: The path or address of the bins, for the message.

        Raises:
            UserError: They were compiled with other prompts.
        """
        if prompt_digest != self.digest:
            raise UserError(
                f"the bins in {folder} were made with other prompts (digest {prompt_digest[:12]}) than those that the "
                f"export is to carry ({self.digest[:12]}), so the served model would read other token ids than it was "
                f"trained on. Build all bins and the prompts folder in one run of `brew360 data build`."
            )

    def require_model(self, folder: Path) -> None:
        """Check that a model that training starts from has the tokenizer of this bundle.

        Args:
            folder: A base model, or an export of brew360.

        Raises:
            UserError: It has another tokenizer, or none.
        """
        if (folder / PROMPT_FILE).is_file():
            other = PromptBundle.load(folder).tokenizer
            same = (other.digest, other.control_tokens) == (self.tokenizer.digest, self.tokenizer.control_tokens)
        else:
            same = file_digest(folder) == self.tokenizer.base_digest
        if not same:
            raise UserError(
                f"the model in {folder} has another tokenizer than the data, so their token ids mean other words. "
                f"Build the data with tokenizer.from={folder}, or start from the model whose tokenizer the data have."
            )

    @staticmethod
    def load(folder: Path) -> "PromptBundle":
        """Load what `save` wrote.

        Raises:
            UserError: A file is missing, malformed, or not the one that was saved with the others.
            ConfigError: As `TaskSuite.from_dict`, or the prompt format has an unknown key.
        """
        content = _read(folder / PROMPT_FILE)
        if content.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{folder / PROMPT_FILE} has format_version {content.get('format_version')!r}, but this release reads "
                f"{FORMAT_VERSION} only. Build the data again with this release."
            )
        bundle = PromptBundle(
            suite=TaskSuite.from_dict(_read(folder / SUITE_FILE)),
            format=load_config(PromptFormat, content.get("format") or {}),
            tokenizer=Tokenizer.load(
                folder,
                ControlTokens.from_dict(content.get("control_tokens")),
                base_digest=content.get("base_tokenizer"),
            ),
        )
        if bundle.digest != content.get("digest"):
            raise UserError(
                f"the prompts in {folder} have the digest {bundle.digest[:12]}, but {PROMPT_FILE} records "
                f"{str(content.get('digest'))[:12]}: tokenizer.json, suite.json or {PROMPT_FILE} was changed or comes "
                f"from other data. Copy all of them from the data that the model was trained on."
            )
        return bundle


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: prompts need tokenizer.json, suite.json and {PROMPT_FILE}. Pass a folder that "
            f"`brew360 data build` or training wrote."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}). Copy the file again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object. Copy the file again.")
    return data
