"""Settings of the engine actors of a batch. The module does not import Ray, so that recipes can contain them."""

from dataclasses import dataclass

from brew_platform.errors import ConfigError

__all__ = ["BatchConfig"]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Number of engines of a batch, and the work per engine."""

    engines: int = 1  # actors, each with one engine; one engine already uses every core of a small machine
    cpus: float = 1.0  # Ray CPUs that an engine reserves; fewer than it uses, so that prompts are compiled in parallel
    gpus: float = 0.0  # Ray GPUs that an engine reserves
    # Requests per part, the unit of scoring, progress and output; 2 MB of token ids. A killed batch loses at most one
    # part per engine. A batch must be resumed with the same value.
    rows: int = 512
    in_flight: int = 2048  # prompts in an engine at a time; bounds memory when requests have many candidates

    def __post_init__(self) -> None:
        if min(self.engines, self.rows, self.in_flight) < 1 or min(self.cpus, self.gpus) < 0:
            raise ConfigError(f"{self}: engines, rows and in_flight must be 1 or more, cpus and gpus 0 or more.")
