"""A prompt bundle: what is saved is what is loaded, and other prompts, bins and models are refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_platform.errors import ConfigError, UserError

from ...base_tokenizers import FAMILIES, make_base_tokenizer, write_base_tokenizer

FORMAT = PromptFormat(context_length=512, head_tokens=128, question_tokens=64)


@pytest.fixture
def bundle(suite: TaskSuite, tokenizer: Tokenizer) -> PromptBundle:
    return PromptBundle(suite=suite, format=FORMAT, tokenizer=tokenizer)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with the tokenizer of a base model."""
    folder = tmp_path / "base"
    folder.mkdir()
    write_base_tokenizer("mixtral", folder)
    return folder


def test_a_saved_bundle_has_the_same_digest_and_prompts(bundle: PromptBundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "prompts")
    loaded = PromptBundle.load(tmp_path / "prompts")
    assert (loaded.suite, loaded.format, loaded.digest) == (bundle.suite, bundle.format, bundle.digest)
    task = bundle.suite.tasks[0]
    assert loaded.compiler().head(task, {}) == bundle.compiler().head(task, {})
    assert PromptBundle.of(bundle.compiler()).digest == bundle.digest
    assert len(bundle.digest) == 64
    names = {path.name for path in (tmp_path / "prompts").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "suite.json", "prompt.json"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_models_tokenizer_travels_with_its_control_tokens(family: str, suite: TaskSuite, tmp_path: Path) -> None:
    write_base_tokenizer(family, tmp_path)
    bundle = PromptBundle(suite=suite, format=FORMAT, tokenizer=Tokenizer.from_model(tmp_path))
    bundle.save(tmp_path / "prompts")
    bundle.save(tmp_path / "again")
    for name in ("tokenizer.json", "prompt.json"):
        assert (tmp_path / "prompts" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    loaded = PromptBundle.load(tmp_path / "prompts").tokenizer
    assert loaded.control_tokens == bundle.tokenizer.control_tokens
    assert (loaded.bos, loaded.user, loaded.base_digest) == (
        bundle.tokenizer.bos, bundle.tokenizer.user, bundle.tokenizer.base_digest,
    )  # fmt: skip
    # A later model starts from an export, which has the bundle's files.
    assert Tokenizer.from_model(tmp_path / "prompts").digest == loaded.digest


def test_the_digest_depends_on_every_part(bundle: PromptBundle, tokenizer: Tokenizer) -> None:
    tokens = replace(tokenizer.control_tokens, user=tokenizer.control_tokens.member, member="<|user|>")
    others = [
        replace(bundle, format=replace(FORMAT, question_tokens=63)),
        replace(bundle, suite=load_suite("movielens")),
        replace(bundle, tokenizer=train_tokenizer(["other words"], vocabulary_size=300)),
        replace(bundle, tokenizer=Tokenizer.from_json(tokenizer.to_json(), tokens)),
    ]
    assert len({bundle.digest, *(other.digest for other in others)}) == 5


def test_saving_over_another_bundle_replaces_it(bundle: PromptBundle, tmp_path: Path) -> None:
    replace(bundle, suite=load_suite("movielens")).save(tmp_path)
    bundle.save(tmp_path)
    assert PromptBundle.load(tmp_path).digest == bundle.digest


def change(name: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        edit(content)
        (folder / name).write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("damage", "error", "text"),
    [
        (lambda folder: (folder / "prompt.json").unlink(), UserError, r"prompt\.json does not exist: .* data build"),
        (lambda folder: (folder / "suite.json").unlink(), UserError, r"suite\.json does not exist"),
        (lambda folder: (folder / "tokenizer.json").unlink(), UserError, r"tokenizer\.json does not exist"),
        (lambda folder: (folder / "prompt.json").write_text("{"), UserError, r"cannot be read as JSON"),
        (lambda folder: (folder / "prompt.json").write_text("[]"), UserError, r"is not a JSON object"),
        (change("prompt.json", lambda c: c.update(format_version=2)), UserError, "has format_version 2, but this"),
        (change("prompt.json", lambda c: c.pop("control_tokens")), UserError, "the control tokens None are not a map"),
        (change("prompt.json", lambda c: c["format"].update(tokens=1)), ConfigError, "unknown key tokens"),
        (change("prompt.json", lambda c: c["format"].update(head_tokens=100)), UserError, "was changed or comes from"),
        (
            change("prompt.json", lambda c: c["control_tokens"].update(user="<|no|>")),
            UserError,
            r"has no <\|no\|> token",
        ),
        (change("prompt.json", lambda c: c.update(digest="0" * 64)), UserError, "records 000000000000: .* Copy all"),
        (change("suite.json", lambda c: c.update(name="other")), UserError, "was changed or comes from other data"),
        (change("tokenizer.json", lambda c: c["added_tokens"].pop()), UserError, "was changed or comes from other"),
    ],
)
def test_changed_or_missing_files_are_refused(
    bundle: PromptBundle, tmp_path: Path, damage: Callable[[Path], None], error: type[Exception], text: str
) -> None:
    bundle.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=text):
        PromptBundle.load(tmp_path)


def test_bins_of_other_prompts_are_refused(bundle: PromptBundle) -> None:
    bundle.require_bins(bundle.digest, "bins")
    with pytest.raises(
        UserError, match=r"other prompts \(digest abababababab\).* Build all bins and the prompts folder"
    ):
        bundle.require_bins("ab" * 32, "bins")


def test_a_base_model_with_another_tokenizer_is_refused(
    bundle: PromptBundle, base: Path, suite: TaskSuite, tmp_path: Path
) -> None:
    own = PromptBundle(suite=suite, format=FORMAT, tokenizer=Tokenizer.from_model(base))
    own.require_model(base)
    with pytest.raises(UserError, match=r"has another tokenizer than the data, .* tokenizer\.from=.*base"):
        bundle.require_model(base)
    content = make_base_tokenizer("mixtral")
    content["model"]["merges"].reverse()
    (base / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="has another tokenizer than the data"):
        own.require_model(base)
    with pytest.raises(UserError, match=r"has no tokenizer\.json, so its token ids have no meaning"):
        own.require_model(tmp_path)


def test_an_export_with_another_tokenizer_is_refused(
    bundle: PromptBundle, base: Path, suite: TaskSuite, tmp_path: Path
) -> None:
    export = tmp_path / "export"
    bundle.save(export)
    bundle.require_model(export)
    # Data of another suite and budget, made with the export's tokenizer, fit.
    other = PromptBundle(
        suite=load_suite("movielens"), format=PromptFormat(context_length=400), tokenizer=Tokenizer.from_model(export)
    )
    other.require_model(export)
    own = PromptBundle(suite=suite, format=FORMAT, tokenizer=Tokenizer.from_model(base))
    with pytest.raises(UserError, match="has another tokenizer than the data"):
        own.require_model(export)
    shutil.rmtree(export)
    own.save(export)
    own.require_model(export)


def test_a_compiler_of_the_bundle_uses_its_parts(bundle: PromptBundle, compiler: PromptCompiler) -> None:
    assert bundle.compiler().labels(bundle.suite.tasks[0]) == compiler.labels(compiler.suite.tasks[0])
