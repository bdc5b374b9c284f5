"""Settings of the engine actors of a batch. The module does not import Ray, so that recipes can contain them."""

from dataclasses import dataclass

from brew_platform.settings import NonNegativeFloat, PositiveInt, Settings

__all__ = ["BatchConfig"]


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Settings):
    """Number of engines of a batch, and the work per engine."""

    engines: PositiveInt = 1  # actors, each with one engine; one engine already uses every core of a small machine
    cpus: NonNegativeFloat = 1.0  # Ray CPUs of an engine; fewer than it uses, so that prompts are compiled in parallel
    gpus: NonNegativeFloat = 0.0  # Ray GPUs that an engine reserves
    # Requests per part, the unit of scoring, progress and output; 2 MB of token ids. A killed batch loses at most one
    # part per engine. A batch must be resumed with the same value.
    rows: PositiveInt = 512
    in_flight: PositiveInt = 2048  # prompts in an engine at a time; bounds memory when requests have many candidates
    # Passes that may end the engine before a request that was alone in the last one is abandoned: it gets an error.
    most_attempts: PositiveInt = 3
