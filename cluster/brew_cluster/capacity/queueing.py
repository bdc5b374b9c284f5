"""Waiting and response times of requests to replicas that share one queue: the M/G/c approximation of Allen-Cunneen.

Arrivals are Poisson. Each replica works on one request at a time. A real replica computes several requests in one
batch, and the router prefers the replica that has the prefix of the member; the queue is therefore an approximation.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

__all__ = ["erlang_c", "mean_wait", "response_quantile", "servers_for"]

_POINTS = 200  # of the distribution of service times
_MOST_SERVERS = 100_000


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that a request of an M/M/c queue waits (Erlang 1917), by the recursion of Erlang B.

    B(0) = 1, B(k) = aB(k-1) / (k + aB(k-1)); C = B(c) / (1 - (a/c)(1 - B(c))).

    Args:
        servers: c, number of servers.
        load: a, arrival rate · mean service time. At a >= c every request waits.
    """
    if load >= servers:
        return 1.0
    blocking = 1.0
    for k in range(1, servers + 1):
        blocking = load * blocking / (k + load * blocking)
    return blocking / (1 - load / servers * (1 - blocking))


def mean_wait(rate: float, servers: int, service: float, spread: float) -> float:
    """Return the mean seconds that a request waits; infinite if the servers cannot answer all requests.

    C(c, a) · S / (c - a) · (1 + v²) / 2 (Allen 1990, "Probability, Statistics and Queueing Theory", the
    Allen-Cunneen approximation for Poisson arrivals). It is exact for M/M/c, and for M/G/1 (Pollaczek-Khinchine).

    Args:
        rate: Requests per second.
        servers: c, number of replicas.
        service: S, mean seconds of work for a request.
        spread: v, standard deviation of the work, divided by its mean.
    """
    load = rate * service
    if load >= servers:
        return math.inf
    return erlang_c(servers, load) * service / (servers - load) * (1 + spread**2) / 2


def response_quantile(share: float, rate: float, servers: int, service: float, spread: float) -> float:
    """Return the response time in seconds (waiting and work) that `share` of the requests do not exceed.

    A request waits with probability C, and then for an exponentially distributed time with mean W / C, where W is
    `mean_wait`. This is exact for M/M/c and the heavy-traffic limit of others (Köllerström 1974). The work is
    log-normal with mean S and coefficient of variation v.

    Args:
        share: 0.99 for the 99th percentile.
        rate, servers, service, spread: As for `mean_wait`.
    """
    wait = mean_wait(rate, servers, service, spread)
    if math.isinf(wait):
        return math.inf
    waiting = erlang_c(servers, rate * service)
    scale = wait / waiting if waiting else 0.0
    work = _service_times(service, spread)

    def late(limit: float) -> float:
        """Return the share of requests that take longer than `limit` seconds."""
        return sum(_tail(limit - time, waiting, scale) for time in work) / len(work)

    low, high = 0.0, work[-1] + scale * 50
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if late(middle) > 1 - share else (low, middle)
    return high


def servers_for(limit: float, share: float, rate: float, service: float, spread: float) -> float:
    """Return the smallest number of servers for which `share` of the requests take at most `limit` seconds.

    It is infinite if the work alone takes longer.
    """
    if _service_times(service, spread)[math.ceil(share * _POINTS) - 1] > limit:
        return math.inf
    low, high = math.floor(rate * service), math.floor(rate * service) + 1
    while response_quantile(share, rate, high, service, spread) > limit:
        low, high = high, 2 * high
        if high > _MOST_SERVERS:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        met = response_quantile(share, rate, middle, service, spread) <= limit
        low, high = (low, middle) if met else (middle, high)
    return high


def _tail(left: float, waiting: float, scale: float) -> float:
    """Return the probability that a request waits longer than `left` seconds."""
    if left < 0:
        return 1.0
    return waiting * math.exp(-left / scale) if scale else 0.0


def _service_times(service: float, spread: float) -> Sequence[float]:
    """Return equally probable values of the work, in ascending order."""
    sigma = math.sqrt(math.log1p(spread**2))
    normal = NormalDist()
    middles = ((point + 0.5) / _POINTS for point in range(_POINTS))
    return [service * math.exp(sigma * normal.inv_cdf(share) - sigma**2 / 2) for share in middles]
