"""Settings of the log of answers."""

from dataclasses import dataclass, replace
from pathlib import Path

from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_platform.errors import ConfigError
from brew_platform.settings import PositiveInt, Seconds, Settings, Share

__all__ = ["AnswerLogConfig"]


@dataclass(frozen=True, kw_only=True)
class AnswerLogConfig(Settings):
    """Which answers a replica logs, and where.

    Raises:
        ConfigError: A value is out of its range, `url` is not a store, or `share` is 0.
    """

    url: str  # a folder that all nodes share, or s3://bucket/prefix
    key: PseudonymConfig  # of the hashes that the log contains in place of the ids of members and entities
    share: Share = 1.0  # of the requests; all versions log the same ones
    file_rows: PositiveInt = 50_000  # candidates after which a file is written
    file_seconds: Seconds = 60.0  # time after which a file is written; a killed replica loses at most these answers
    waiting_rows: PositiveInt = 200_000  # candidates that are not written yet, at most; answers beyond are dropped

    def __post_init__(self) -> None:
        super().__post_init__()
        scheme, separator, _ = self.url.partition("://")
        if not self.url.strip() or (separator and scheme not in ("s3", "file")):
            raise ConfigError(f"url of the answer log is {self.url!r}; give a folder, or s3://bucket/prefix.")
        if not self.share:
            raise ConfigError(
                "share of the answer log is 0, so it would be empty; leave out answer_log to log nothing."
            )
        if self.waiting_rows < self.file_rows:
            raise ConfigError(
                f"waiting_rows is {self.waiting_rows}, which is less than file_rows ({self.file_rows}), so no file "
                f"would become full; raise it."
            )

    def absolute(self) -> "AnswerLogConfig":
        """Return the settings with absolute paths, for processes with another working directory."""
        url = self.url if "://" in self.url else str(Path(self.url).expanduser().absolute())
        return replace(self, url=url, key=self.key.absolute())
