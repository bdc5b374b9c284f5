"""The settings of privacy, in the recipe of a data set."""

from dataclasses import dataclass, field

from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_platform.settings import Settings

__all__ = ["PrivacyConfig"]


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig(Settings):
    """What is removed besides the identifiers in text, which always are."""

    pseudonyms: PseudonymConfig | None = None  # replaces member ids by keyed hashes; null: they stay
    # File with the ids of members who opted out, one per line, besides those of the column opted_out.
    opted_out_file: str | None = None
    # Fields of entities with the author's name, which is removed if the author opted out.
    author_fields: list[str] = field(default_factory=lambda: ["author", "author_name"])
    # Types of entities that describe the member `author_id`; they are removed if that member opted out.
    profile_types: list[str] = field(default_factory=lambda: ["person"])
