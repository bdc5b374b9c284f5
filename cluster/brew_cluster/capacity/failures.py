"""Failures of a training run: mean time between them, the best checkpoint interval, and the expected goodput."""

import math

__all__ = ["best_checkpoint_interval", "expected_goodput", "mean_time_between_failures"]


def mean_time_between_failures(nodes: float, failures: float) -> float:
    """Return the seconds between failures of a job that stops when one of its nodes fails.

    MTBF = 1 / (nodes · rate), for independent failures (Kokolis et al. 2025, arXiv:2410.21680, section III, which
    measures 6.50 and 2.34 failures per 1,000 node-days on two clusters).

    Args:
        nodes: Number of nodes of 8 GPUs.
        failures: Failures per 1,000 node-days.
    """
    return 86_400 * 1_000 / (nodes * failures)


def best_checkpoint_interval(blocked: float, mtbf: float) -> float:
    """Return the seconds of work between checkpoints that lose the least time.

    Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation
    Computer Systems 22(3): √(2δM) · (1 + √(δ/2M)/3 + δ/(2M)/9) - δ for δ < 2M, and M otherwise. The first factor is
    Young's formula (1974, Communications of the ACM 17(9)).

    Args:
        blocked: δ, seconds for which one checkpoint stops the training.
        mtbf: M, mean seconds between failures.
    """
    if blocked >= 2 * mtbf:
        return mtbf
    ratio = blocked / (2 * mtbf)
    return math.sqrt(2 * blocked * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - blocked


def expected_goodput(interval: float, *, blocked: float, recovery: float, mtbf: float) -> float:
    """Return the productive share of the time, from 0 to 1.

    τ / (M · exp(R/M) · (exp((τ+δ)/M) - 1)): Daly 2006, the complete model of the total time, for failures that are
    exponentially distributed and may also hit a recovery or a checkpoint.

    Args:
        interval: τ, seconds of work between checkpoints.
        blocked: δ, seconds for which one checkpoint stops the training.
        recovery: R, seconds from a failure until training continues. A checkpoint that is written in the background
            can be used only after it is complete, so the time of writing belongs to R.
        mtbf: M, mean seconds between failures.
    """
    exponent = (interval + blocked) / mtbf
    if recovery / mtbf + exponent > 700:  # exp overflows
        return 0.0
    return interval / (mtbf * math.exp(recovery / mtbf) * math.expm1(exponent))
