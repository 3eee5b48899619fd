"""Turns to send: who gets one, and that one peer never has them all."""

import asyncio

import pytest

from server.turns import Turns


async def asked(turns, *peers):
    """The tasks that wait for a turn, begun in this order."""
    tasks = []
    for peer in peers:
        tasks.append(asyncio.create_task(turns.acquire(peer)))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def granted(tasks):
    return [task.done() and not task.cancelled() for task in tasks]


@pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (64, 48)])
def test_one_peer_leaves_a_quarter_to_the_others(count, most):
    async def scenario():
        turns = Turns(count)
        tasks = await asked(turns, *["a"] * 100)
        assert sum(granted(tasks)) == most
        others = await asked(turns, *[f"b{number}" for number in range(100)])
        assert sum(granted(others)) == count - most
        for task in (*tasks, *others):
            task.cancel()

    asyncio.run(scenario())


def test_a_turn_goes_to_the_peer_that_has_fewest_and_else_to_the_first():
    async def scenario():
        turns = Turns(4)
        first = await asked(turns, "a", "a", "b", "c", "a", "b", "d", "e")
        assert granted(first) == [True] * 4 + [False] * 4
        for peer, now in (("c", 6), ("b", 5), ("a", 7)):
            turns.release(peer)
            await asyncio.sleep(0.01)
            assert granted(first)[now]
        assert granted(first) == [True] * 4 + [False, True, True, True], "a came first, and has one"
        turns.release("a")
        await asyncio.sleep(0.01)
        assert all(granted(first))

    asyncio.run(scenario())


@pytest.mark.parametrize("too_late", [False, True])
def test_who_is_gone_leaves_its_turn_to_the_next(too_late):
    """Also where it was given in the very moment."""

    async def scenario():
        turns = Turns(1)
        _, gone, last = await asked(turns, "a", "b", "c")
        if too_late:
            turns.release("a")
            gone.cancel()
        else:
            gone.cancel()
            await asyncio.sleep(0)
            turns.release("a")
        await asyncio.wait_for(last, 5)
        turns.release("c")
        await asyncio.wait_for(turns.acquire("d"), 5)

    asyncio.run(scenario())
