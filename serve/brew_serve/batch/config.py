"""Settings of the engine actors of a batch. Free of Ray, so that recipes can contain them."""

from dataclasses import dataclass

from brew_platform.errors import ConfigError

__all__ = ["BatchConfig"]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How many engines score, and how much each holds at a time."""

    engines: int = 1  # actors, each with one engine; one engine already uses every core of a small machine
    cpus: float = 1.0  # Ray CPUs that an engine reserves; fewer than it uses, so that making prompts goes on beside it
    gpus: float = 0.0  # Ray GPUs that an engine reserves
    # Requests given to an engine at a time, and told of or written at a time; 2 MB of token ids. A batch that is killed
    # loses at most that many per engine, and one that is resumed must be cut as it was begun.
    rows: int = 512
    in_flight: int = 2048  # prompts that an engine may hold; bounds memory when requests have many candidates

    def __post_init__(self) -> None:
        if min(self.engines, self.rows, self.in_flight) < 1 or min(self.cpus, self.gpus) < 0:
            raise ConfigError(f"{self}: engines, rows and in_flight must be 1 or more, cpus and gpus 0 or more.")
