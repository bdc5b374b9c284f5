"""What the tables of a data set are made from besides the recipe, so that a build that continues notices changes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brew_cluster.jobs.dataset_card import input_files
from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_data.corpora.conversations import conversation_files
from brew_data.data_folder import InputFile
from brew_data.packed_bins.plan import digest_file
from brew_data.privacy.opt_out import read_opted_out
from brew_data.prompts.suite import TaskSuite
from brew_data.sources.base import Source
from brew_platform.config import config_digest

__all__ = ["BuildInputs", "read_inputs"]


@dataclass(frozen=True, kw_only=True)
class BuildInputs:
    """The inputs of a build, with their digests."""

    source: list[InputFile] = field(default_factory=list)  # files of the source
    corpora: list[InputFile] = field(default_factory=list)  # files of conversations
    others: dict[str, str] = field(default_factory=dict)  # by name: the suite, opted-out members, the pseudonyms' key

    @property
    def files(self) -> list[InputFile]:
        """All input files."""
        return [*self.source, *self.corpora]

    def changes(self, before: "BuildInputs") -> list[str]:
        """Return the names of what differs from earlier inputs, sorted."""
        return sorted({name for name, _ in self._digests() ^ before._digests()})

    def _digests(self) -> set[tuple[str, str]]:
        return {*((file.file, file.sha256) for file in self.files), *self.others.items()}

    def document(self) -> dict[str, Any]:
        """Return the inputs as plain data."""
        return asdict(self)

    @staticmethod
    def of_document(document: Mapping[str, Any]) -> "BuildInputs":
        """Return the inputs that `document` described."""
        source, corpora = ([InputFile(**file) for file in document[name]] for name in ("source", "corpora"))
        return BuildInputs(source=source, corpora=corpora, others=document["others"])


def read_inputs(config: DatasetConfig, source: Source, suite: TaskSuite) -> BuildInputs:
    """Hash the inputs of a build. Every file is read once.

    Args:
        config: The recipe.
        source: The source that it names.
        suite: The suite that it names.

    Raises:
        UserError: An input cannot be read.
    """
    others, privacy = {"the suite": config_digest(suite.to_dict())}, config.privacy
    pseudonyms = None if privacy.pseudonyms is None else privacy.pseudonyms.open()
    if pseudonyms is not None:
        others["the key of privacy.pseudonyms"] = pseudonyms.key_id
    if privacy.opted_out_file is not None:
        ids = read_opted_out(Path(privacy.opted_out_file))
        # Without the key, nobody can test whether a member is in the list.
        listed = ids if pseudonyms is None else list(map(pseudonyms.of, ids))
        others["the list of privacy.opted_out_file"] = config_digest({"ids": listed})
    parts = [part for corpus in config.corpora.values() for part in corpus.sources.values()]
    paths = {Path(part.path) for part in parts if part.path is not None}
    chats = sorted({file for path in paths for file in conversation_files(path)})
    return BuildInputs(
        source=input_files(source),
        corpora=[InputFile(file=file.name, sha256=digest_file(file)) for file in chats],
        others=others,
    )
