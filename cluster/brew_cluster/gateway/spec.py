"""What a team submits, and what the gateway answers about a job. All classes are pydantic models of JSON bodies."""

import re
import shlex
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["ENDED", "STATES", "AttemptState", "JobSpec", "JobState", "LogPart", "Submission", "TeamUsage"]

STATES = ("queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled")
ENDED = ("succeeded", "failed", "cancelled")
# Of the recipe, and of the arguments together: an environment variable, escaped, and an argument of a shell. Linux
# limits each to 128 KiB.
MAX_BYTES = 32_768

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RECIPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

Argument = Annotated[str, Field(min_length=1, max_length=4_096)]


class JobSpec(BaseModel):
    """A job: a brew360 command with a recipe, or an own entrypoint, and what it needs.

    Raises:
        ValidationError: A field is unknown, has the wrong type, is out of its range, or does not fit the kind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["recipe", "entrypoint"] = Field(description="recipe: a brew360 command; entrypoint: a shell command")
    command: str | None = Field(default=None, description="of kind recipe: `train` or `data build`")
    recipe: str | None = Field(default=None, description="of kind recipe: a built-in recipe, or the name of a file")
    recipe_text: str | None = Field(
        default=None, description="content of the recipe's file, YAML, at most 32 KiB; absent for a built-in recipe"
    )
    overrides: list[Argument] = Field(default=[], max_length=200, description="settings of the recipe, key=value")
    options: list[Argument] = Field(default=[], max_length=20, description="of the command, such as --out=data/a")
    entrypoint: str | None = Field(
        default=None, min_length=1, max_length=8_192, description="of kind entrypoint: a shell command"
    )
    name: str | None = Field(default=None, description="for people, who see it in lists")
    gpus: int = Field(default=0, ge=0, le=65_536, description="that all workers of the job use together")
    cpus: int = Field(default=1, ge=1, le=1_048_576, description="CPU cores that the job uses")
    node_labels: dict[str, str] = Field(default={}, description="Ray labels of the nodes that run the job")
    retries: int = Field(default=2, ge=0, le=100, description="attempts after one that failed or was lost")
    max_seconds: int | None = Field(
        default=None, ge=1, le=31_536_000, description="of all attempts together; the job is then stopped"
    )
    priority: int = Field(default=0, ge=0, le=9, description="among the jobs of the team; higher ones start first")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"name is {name[:100]!r}; use up to 100 letters, digits and ._-, a letter or digit first")
        return name

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, recipe: str | None) -> str | None:
        if recipe is not None and not _RECIPE.fullmatch(recipe):
            raise ValueError(
                f"recipe is {recipe[:100]!r}; give the name of a built-in recipe, or the name of a file without folders"
                f" with its content in recipe_text"
            )
        return recipe

    @field_validator("recipe_text")
    @classmethod
    def _check_recipe_text(cls, text: str | None) -> str | None:
        if text is not None and len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise ValueError(f"recipe_text has more than {MAX_BYTES:,} bytes; shorten the recipe")
        return text

    @field_validator("overrides", "options")
    @classmethod
    def _check_arguments(cls, arguments: list[str]) -> list[str]:
        if len(shlex.join(arguments).encode("utf-8", "replace")) > MAX_BYTES:
            raise ValueError(
                f"the arguments have more than {MAX_BYTES:,} bytes with the quotes of a shell; put settings into the "
                f"recipe's file"
            )
        for argument in arguments:
            if "\0" in argument:
                raise ValueError(f"{argument[:100]!r} contains a null character, which no command line can; remove it")
        return arguments

    @field_validator("entrypoint")
    @classmethod
    def _check_entrypoint(cls, entrypoint: str | None) -> str | None:
        if entrypoint is not None and ("\0" in entrypoint or not entrypoint.strip()):
            raise ValueError("entrypoint is empty or contains a null character; give a shell command")
        return entrypoint

    @field_validator("node_labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
                raise ValueError(
                    f"node_labels has {key[:100]!r}: {value[:100]!r}, which is not a label of a node; give one such as "
                    f"brew360/role: train"
                )
        return labels

    @model_validator(mode="after")
    def _check_kind(self) -> "JobSpec":
        of_recipe = (self.command, self.recipe)
        if self.kind == "recipe" and (None in of_recipe or self.entrypoint is not None):
            raise ValueError("a job of kind recipe has command and recipe, and no entrypoint; correct the fields")
        others = (*of_recipe, self.recipe_text, *self.overrides, *self.options)
        if self.kind == "entrypoint" and (self.entrypoint is None or any(other is not None for other in others)):
            raise ValueError("a job of kind entrypoint has an entrypoint, and no command or recipe; correct the fields")
        return self

    @property
    def text(self) -> str:
        """The command as a user would write it in a shell."""
        if self.entrypoint is not None:
            return self.entrypoint
        assert self.command is not None
        assert self.recipe is not None
        return shlex.join(["brew360", *self.command.split(), self.recipe, *self.overrides, *self.options])


class Submission(BaseModel):
    """The body of POST /v1/jobs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: JobSpec
    request_id: str = Field(
        pattern=r"^[A-Za-z0-9_-]{16,64}$", description="random; the same id again returns the same job"
    )


class AttemptState(BaseModel):
    """One run of a job on the cluster. Times are ISO 8601 in UTC."""

    number: int = Field(description="from 1")
    started: str
    ended: str | None
    outcome: Literal["running", "succeeded", "failed", "lost", "preempted", "cancelled"]
    reason: str = Field(description="why it ended; empty while it runs")
    gpu_seconds: float


class JobState(BaseModel):
    """A job as the gateway sees it."""

    id: str
    team: str
    state: Literal["queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled"]
    spec: JobSpec
    command: str = Field(description="as a user would write it in a shell")
    accepted: str = Field(description="ISO 8601, UTC")
    ended: str | None
    position: int | None = Field(description="in the queue of all teams, from 1; null if the job is not queued")
    reason: str = Field(description="why it waits, or how it ended; empty while it runs")
    attempts: list[AttemptState]
    gpu_seconds: float = Field(description="of all attempts until now")

    @property
    def has_ended(self) -> bool:
        """Whether the job will not run again."""
        return self.state in ENDED


class LogPart(BaseModel):
    """A part of the log of one attempt."""

    attempt: int = Field(description="0: the job has not started")
    offset: int = Field(description="characters before `text`")
    text: str
    is_complete: bool = Field(description="the attempt has ended, and `text` is its end")
    state: Literal["queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled"]
    attempts: int = Field(description="number of attempts until now")


class TeamUsage(BaseModel):
    """What a team uses, and its quotas."""

    team: str
    month: str = Field(description="YYYY-MM, UTC")
    gpu_hours: float = Field(description="used this month, running jobs included")
    gpu_hours_per_month: float | None = Field(description="null: no limit")
    running_gpus: int
    concurrent_gpus: int | None = Field(description="null: no limit")
    queued: int
    running: int
