"""The settings of corpora, in the recipe of a data set."""

from dataclasses import dataclass
from typing import Annotated

from brew_platform.errors import ConfigError
from brew_platform.settings import NonNegativeInt, OneOf, PositiveFloat, PositiveInt, Range, Settings, Share

__all__ = ["CorpusConfig", "CorpusSourceConfig"]

KINDS = ("interactions", "profiles", "networks", "entities", "conversations")


@dataclass(frozen=True, kw_only=True)
class CorpusSourceConfig(Settings):
    """A source of documents, and its share in the corpus.

    Raises:
        ConfigError: A value is out of its range, or `path` is missing, or set for a source that reads the tables.
    """

    # interactions: the chats of SFT; profiles: members with their history; networks; entities; conversations: of files.
    kind: Annotated[str, OneOf(KINDS)]
    path: str | None = None  # of conversations: a .jsonl or .parquet file, or a folder of them
    # Tokens in proportion to those of the other sources; null for all sources: as many as each has.
    weight: PositiveFloat | None = None
    # A stratum (task or type of entity) has tokens in proportion to its size, to this power; 0: all have the same.
    strata_power: Share = 1.0
    toward: str | None = None  # another source of the corpus; documents that resemble it are chosen first

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.path is None) == (self.kind == "conversations"):
            missing = "path is missing; give the files of" if self.path is None else "path is set, but only read for"
            raise ConfigError(f"{missing} conversations. The kind is {self.kind}.")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(Settings):
    """A folder of bins with the documents of one or several sources.

    Raises:
        ConfigError: A value is out of its range, there are no sources, or `toward` of a source names no other one.
    """

    sources: dict[str, CorpusSourceConfig]  # by name
    tokens: PositiveInt | None = None  # budget; null: the largest one that uses no document twice
    # Largest number of tokens that are used of a source, as a multiple of those that it has.
    most_repeats: Annotated[float, Range(ge=1)] = 4.0
    seed: NonNegativeInt = 0  # another seed chooses other documents

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise ConfigError("sources is empty; name at least one source of documents.")
        for name, source in self.sources.items():
            if source.toward is not None and (source.toward == name or source.toward not in self.sources):
                raise ConfigError(
                    f"sources.{name}.toward is {source.toward!r}, which is not another source of the corpus. Name one "
                    f"of {', '.join(sorted(set(self.sources) - {name})) or 'the sources, once there are two'}."
                )
