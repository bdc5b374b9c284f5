"""The settings of the source `tables`: which files hold each table, and which columns they have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from brew_data.sources.time_units import TIME_UNITS
from brew_data.sources.time_values import is_time_format
from brew_platform.errors import ConfigError
from brew_platform.settings import OneOf, Range, Settings

__all__ = [
    "ConnectionsConfig",
    "EntitiesConfig",
    "InteractionsConfig",
    "MembersConfig",
    "TableConfig",
    "TablesConfig",
    "ThresholdConfig",
]

FORMATS = ("auto", "csv", "jsonl", "parquet")


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig(Settings):
    """A step of a mapping from numbers to values."""

    at_least: Annotated[float, Range()]  # the smallest number that gets the value
    value: str  # the value of numbers from `at_least` up to the next threshold


@dataclass(frozen=True, kw_only=True)
class TableConfig(Settings):
    """The files of one table and the mapping of their columns.

    Raises:
        ConfigError: A setting is out of range, or a column is mapped twice, not at all, or to an unknown name.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()

    files: list[str] = field(default_factory=list)  # paths or globs, local or s3://bucket/key
    # csv, jsonl or parquet; auto: by the ending (.csv, .tsv, .txt, .jsonl, .json, .parquet, also .gz).
    format: Annotated[str, OneOf(FORMATS)] = "auto"
    delimiter: str = ","  # of CSV files; one or more characters
    quote: str = '"'  # of CSV files; empty: values are never quoted
    encoding: str = "utf-8"  # of CSV and JSONL files
    header: list[str] = field(default_factory=list)  # names of the columns of a CSV file without a header line
    missing: list[str] = field(default_factory=lambda: ["nan", "NaN", "null", "NULL"])  # texts that mean no value
    columns: dict[str, str] = field(default_factory=dict)  # column of the file (dots into structs) by our column
    constants: dict[str, str] = field(default_factory=dict)  # the same value for every row, by our column
    values: dict[str, dict[str, str]] = field(default_factory=dict)  # by our column: our value for each written value
    thresholds: dict[str, list[ThresholdConfig]] = field(default_factory=dict)  # by our column: our value for numbers
    time_format: str = (
        "iso8601"  # or seconds, milliseconds, microseconds, nanoseconds (since 1970), or a strptime format
    )

    @property
    def fields_mapping(self) -> Mapping[str, str]:
        """Columns of the file by name in the table's struct; the interactions have none."""
        return {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.delimiter or len(self.quote) > 1:
            raise ConfigError("delimiter needs one or more characters, and quote at most one. Change them.")
        if self.delimiter == self.quote or set(f"{self.delimiter}{self.quote}") & set("\r\n"):
            raise ConfigError("delimiter and quote must differ, and have no line break. Change them.")
        try:
            if "a\n".encode(self.encoding).decode(self.encoding) != "a\n":
                raise LookupError
        except (LookupError, UnicodeError):  # unknown, or not of text, as base64
            raise ConfigError(
                f"encoding {self.encoding!r} is unknown. Name one that Python knows, e.g. utf-8, latin-1 or utf-16."
            ) from None
        if not is_time_format(self.time_format):
            raise ConfigError(
                f"time_format is {self.time_format!r}, but must be iso8601, {', '.join(TIME_UNITS)} (since 1970), or a "
                f"strptime format such as '%d/%m/%Y %H:%M'."
            )
        known = (*self.REQUIRED, *self.OPTIONAL)
        mapped = [*self.columns, *self.constants]
        if unknown := [name for name in mapped if name not in known]:
            raise ConfigError(f"columns or constants name {unknown[0]!r}, which is unknown. Known: {', '.join(known)}.")
        if twice := [name for name in self.columns if name in self.constants]:
            raise ConfigError(f"{twice[0]} is in columns and in constants. Keep one of them.")
        if self.files and (missing := [name for name in self.REQUIRED if name not in mapped]):
            raise ConfigError(
                f"{missing[0]} is mapped to nothing. Add it to columns, as {missing[0]}: NAME_IN_YOUR_FILE, or to "
                f"constants."
            )
        sources = {*self.columns, *self.fields_mapping}
        for setting in ("values", "thresholds"):
            if unknown := [name for name in getattr(self, setting) if name not in sources]:
                raise ConfigError(f"{setting} name {unknown[0]!r}, which is not in columns. Add it there.")
        for name, steps in self.thresholds.items():
            bounds = [step.at_least for step in steps]
            if not steps or bounds != sorted(set(bounds)):
                raise ConfigError(f"thresholds.{name}: at_least must rise from one threshold to the next.")
            if name in self.values:
                raise ConfigError(f"{name} is in values and in thresholds. Keep one of them.")


@dataclass(frozen=True, kw_only=True)
class InteractionsConfig(TableConfig):
    """The interactions: member_id, entity_id, surface, action and timestamp, each from a column or a constant."""

    REQUIRED = ("member_id", "entity_id", "surface", "action", "timestamp")


@dataclass(frozen=True, kw_only=True)
class EntitiesConfig(TableConfig):
    """The entities: entity_id and entity_type, the member who wrote each, and the fields that templates may show."""

    REQUIRED = ("entity_id", "entity_type")
    OPTIONAL = ("created_at", "author_id")

    fields: dict[str, str] = field(default_factory=dict)  # column of the file by field of the entity

    @property
    def fields_mapping(self) -> Mapping[str, str]:
        return self.fields


@dataclass(frozen=True, kw_only=True)
class MembersConfig(TableConfig):
    """The members: member_id, and the fields of the profile.

    Without files, members are those of the interactions and connections.
    """

    REQUIRED = ("member_id",)
    OPTIONAL = ("locale", "opted_out")

    profile: dict[str, str] = field(default_factory=dict)  # column of the file by field of the profile

    @property
    def fields_mapping(self) -> Mapping[str, str]:
        return self.profile


@dataclass(frozen=True, kw_only=True)
class ConnectionsConfig(TableConfig):
    """The network: member_id and other_id, the kind (connection or follow), and since when."""

    REQUIRED = ("member_id", "other_id", "kind", "timestamp")


@dataclass(frozen=True, kw_only=True)
class TablesConfig(Settings):
    """The tables: interactions, entities, and optionally members and connections.

    Raises:
        ConfigError: Interactions or entities name no files.
    """

    interactions: InteractionsConfig
    entities: EntitiesConfig
    members: MembersConfig = field(default_factory=MembersConfig)
    connections: ConnectionsConfig = field(default_factory=ConnectionsConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("interactions", "entities"):
            if not getattr(self, name).files:
                raise ConfigError(f"{name}.files is empty. Name the files of the {name}.")
