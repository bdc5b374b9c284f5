"""The fair queue: bounded, weighted, exact in the long run, and never stuck."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_platform.identity.keys import Team
from brew_serve.errors import Overloaded
from brew_serve.http.fair_queue import FairQueue, Turn

SOON = 0.001


def queue(running_tokens: int = 100, max_waiting: int = 1_000) -> FairQueue:
    return FairQueue(lambda: running_tokens, max_waiting=max_waiting, clock=lambda: 0.0)


async def wait_all(fair: FairQueue, team: Team, sizes: list[int]) -> list[asyncio.Task[Turn]]:
    tasks = [asyncio.create_task(fair.wait(team, size)) for size in sizes]
    await asyncio.sleep(0)
    return tasks


async def serve_order(fair: FairQueue, tasks: list[asyncio.Task[Turn]]) -> list[Turn]:
    """End the running turns one by one, and return them in the order in which they started."""
    order: list[Turn] = []
    while len(order) < len(tasks):
        await asyncio.sleep(0)
        started = [task.result() for task in tasks if task.done() and task.result() not in order]
        order += started
        for turn in started:
            fair.end(turn, turn.tokens)
    return order


async def test_requests_start_at_once_below_the_limit() -> None:
    fair = queue(running_tokens=10)
    team = Team(name="feed")
    first, second = await fair.wait(team, 4), await fair.wait(team, 6)
    assert not fair.can_start(1)
    assert fair.waiting_tokens == 0
    third = asyncio.create_task(fair.wait(team, 1))
    await asyncio.sleep(0)
    assert not third.done()
    assert fair.waiting_tokens == 1
    fair.end(first, 4)
    await third
    assert fair.waiting_tokens == 0
    fair.end(second, 6)


async def test_a_request_larger_than_the_limit_runs_alone() -> None:
    fair = queue(running_tokens=10)
    team = Team(name="feed")
    small = await fair.wait(team, 1)
    large = asyncio.create_task(fair.wait(team, 50))
    after = asyncio.create_task(fair.wait(team, 1))
    await asyncio.sleep(0)
    assert not large.done()
    fair.end(small, 1)
    turn = await large
    assert not after.done()
    fair.end(turn, 50)
    await after


async def test_a_flood_does_not_delay_another_team() -> None:
    fair = queue(running_tokens=10)
    flood = await wait_all(fair, Team(name="flood"), [10] * 500)
    single = await wait_all(fair, Team(name="single"), [10])
    order = await serve_order(fair, flood + single)
    assert [turn.team for turn in order].index("single") <= 2


async def test_a_pause_saves_up_nothing() -> None:
    fair = queue(running_tokens=10)
    for turn in await serve_order(fair, await wait_all(fair, Team(name="busy"), [10] * 50)):
        assert turn.team == "busy"
    late = await wait_all(fair, Team(name="late"), [10] * 20)
    busy = await wait_all(fair, Team(name="busy"), [10] * 20)
    order = [turn.team for turn in await serve_order(fair, late + busy)]
    assert 8 <= order[:20].count("busy") <= 12


async def test_a_prediction_that_was_too_low_is_made_up_for() -> None:
    fair = queue(running_tokens=10)
    low, exact = Team(name="low"), Team(name="exact")
    tasks = await wait_all(fair, low, [1] * 300) + await wait_all(fair, exact, [10] * 300)
    used = {"low": 0, "exact": 0}
    ended: set[Turn] = set()
    while sum(used.values()) < 3_000:
        await asyncio.sleep(0)
        for turn in [task.result() for task in tasks if task.done() and task.result() not in ended]:
            ended.add(turn)
            used[turn.team] += 10  # each request takes 10 tokens
            fair.end(turn, 10)
    assert abs(used["low"] - used["exact"]) <= 110  # the prediction lets 10 start at a time
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_team_has_a_bounded_queue_and_others_still_wait() -> None:
    fair = queue(running_tokens=1, max_waiting=2)
    team = Team(name="feed")
    tasks = await wait_all(fair, team, [1, 1, 1])
    with pytest.raises(Overloaded, match="2 requests of team feed wait already") as refusal:
        await fair.wait(team, 1)
    assert refusal.value.retry_after == 1
    other = await wait_all(fair, Team(name="ads"), [1])
    await serve_order(fair, tasks + other)


async def test_waiting_ends_at_the_deadline_and_leaves_nothing() -> None:
    fair = queue(running_tokens=1)
    team = Team(name="feed")
    running = await fair.wait(team, 1)
    with pytest.raises(TimeoutError):
        await fair.wait(team, 1, until=asyncio.get_running_loop().time() + SOON)
    fair.end(running, 1)
    assert fair.can_start(1)


async def test_a_turn_that_cannot_come_in_time_is_refused_at_once() -> None:
    now = 0.0
    fair = FairQueue(lambda: 100, max_waiting=1_000, clock=lambda: now)
    team, loop = Team(name="feed"), asyncio.get_running_loop()
    tasks = await wait_all(fair, team, [100] * 11)
    for i in range(4):  # 100 tokens a second
        now += 1.0
        fair.end(await tasks[i], 100)
    with pytest.raises(Overloaded, match=r"could not answer it within its deadline; try again in 4\.\d s") as refusal:
        await fair.wait(team, 100, until=loop.time() + 2)  # 600 tokens wait
    assert refusal.value.retry_after == pytest.approx(4, abs=0.1)
    patient = await wait_all(fair, team, [100])
    other = asyncio.create_task(fair.wait(Team(name="ads"), 100, until=loop.time() + 2))  # has its own line
    await serve_order(fair, [*tasks[4:], *patient, other])


async def test_a_cancelled_request_that_has_just_started_gives_its_place_back() -> None:
    fair = queue(running_tokens=1)
    team = Team(name="feed")
    running = await fair.wait(team, 1)
    tasks = await wait_all(fair, team, [1, 1])
    tasks[0].cancel()
    fair.end(running, 1)  # starts the request whose task is being cancelled
    turn = await tasks[1]
    assert tasks[0].cancelled()
    fair.end(turn, 1)
    assert fair.can_start(1)


teams = st.lists(
    st.tuples(st.floats(0.2, 5), st.lists(st.integers(1, 40), min_size=30, max_size=30)), min_size=2, max_size=4
)


@settings(max_examples=30, deadline=None)
@given(teams)
def test_teams_that_wait_get_tokens_in_the_ratio_of_their_weights(teams: list[tuple[float, list[int]]]) -> None:
    async def run() -> None:
        fair = queue(running_tokens=1)  # one request at a time
        tasks, left = [], {}
        for i, (weight, sizes) in enumerate(teams):
            left[str(i)] = len(sizes)
            tasks += await wait_all(fair, Team(name=str(i), weight=weight), sizes)
        served = dict.fromkeys(left, 0.0)
        largest = {str(i): max(sizes) / weight for i, (weight, sizes) in enumerate(teams)}
        for turn in await serve_order(fair, tasks):
            served[turn.team] += turn.tokens / teams[int(turn.team)][0]
            left[turn.team] -= 1
            if min(left.values()) == 0:
                return
            for a in left:
                for b in left:
                    assert abs(served[a] - served[b]) <= 2 * (largest[a] + largest[b]) + 1e-6

    asyncio.run(run())
