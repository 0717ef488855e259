"""Tests of edgetl/serve/batcher.py on a session of the test's own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from edgetl.errors import DataError, SessionError
from edgetl.records import FloatArray, ImageArray

batcher = pytest.importorskip("edgetl.serve.batcher", reason="fastapi answers over HTTP")
replies = pytest.importorskip("edgetl.serve.replies")


class Engine:
    """Answers with the images' first pixels, once it is let."""

    degraded = None

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.fails = False

    def run(self, images: ImageArray) -> FloatArray:
        self.seen.append(len(images))
        assert self.free.wait(10)
        if self.fails:
            raise SessionError("the device is lost")
        return images[:, 0, 0, :].astype(np.float32)


def image(value: int, count: int = 1) -> ImageArray:
    return np.full((count, 2, 2, 3), value, dtype=np.uint8)


def job(images: ImageArray | Exception, within: float = 10.0, write: Callable[[Any], Any] | None = None) -> Any:
    def read() -> Any:
        if isinstance(images, Exception):
            raise images
        return batcher.Read(images=images)

    def told(answered: Any) -> Any:
        return replies.json_reply({"values": answered.logits[:, 0].tolist(), "batch": answered.batch})

    now = time.monotonic()
    done = asyncio.get_running_loop().create_future()
    return batcher.Job(read=read, write=write or told, arrived=now, deadline=now + within, done=done)


def with_batcher(work: Callable[[Any, Engine], Awaitable[Any]], **how: Any) -> Any:
    """Return what a coroutine makes of a batcher, which is closed then."""

    async def run() -> Any:
        engine = Engine()
        made = batcher.Batcher(engine, **{"workers": 1, "queue": 8, **how})
        try:
            return await work(made, engine)
        finally:
            engine.free.set()
            await asyncio.to_thread(made.close)

    return asyncio.run(run())


def test_each_job_gets_its_own_rows_of_a_batch() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        jobs = [made.submit(job(image(index, count=index + 1))) for index in range(3)]
        return [(await each).body for each in jobs], engine.seen

    bodies, seen = with_batcher(work, batch=3, delay_seconds=1.0)
    assert seen == [6]
    assert [json.loads(body) for body in bodies] == [
        {"values": [float(index)] * (index + 1), "batch": 6} for index in range(3)
    ]


def test_a_batch_that_does_not_fill_is_run_when_its_time_is_over() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        started = time.monotonic()
        await made.submit(job(image(1)))
        return time.monotonic() - started

    assert 0.2 <= with_batcher(work, batch=4, delay_seconds=0.2) < 2


def test_what_is_late_is_never_run() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        engine.free.clear()
        first = made.submit(job(image(1)))
        late = made.submit(job(image(2), within=0.05))
        await asyncio.sleep(0.2)
        engine.free.set()
        await first
        with pytest.raises(replies.RefusedError, match="waited longer than it may") as refused:
            await late
        return refused.value.status, engine.seen

    assert with_batcher(work) == (504, [1])


def test_more_than_may_wait_is_refused() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        engine.free.clear()
        running = made.submit(job(image(0)))
        while not engine.seen:
            await asyncio.sleep(0.01)
        waiting = [made.submit(job(image(0))) for _ in range(2)]
        assert made.is_full
        with pytest.raises(replies.RefusedError, match="too many requests wait") as refused:
            made.submit(job(image(0)))
        engine.free.set()
        await asyncio.gather(running, *waiting)
        return refused.value.status

    assert with_batcher(work, queue=2) == 503


def test_one_bad_photo_costs_the_others_of_its_batch_nothing() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        bad, good = made.submit(job(DataError("no photo"))), made.submit(job(image(7)))
        with pytest.raises(replies.RefusedError, match="no photo") as refused:
            await bad
        return refused.value.status, (await good).body

    assert with_batcher(work, batch=2, delay_seconds=1.0) == (400, b'{"values":[7.0],"batch":1}')


def test_a_lost_device_is_said_to_all_of_the_batch() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        engine.fails = True
        jobs = [made.submit(job(image(index))) for index in range(2)]
        told = await asyncio.gather(*jobs, return_exceptions=True)
        return [(each.status, each.reason) for each in told]

    assert with_batcher(work, batch=2, delay_seconds=1.0) == [(503, "device")] * 2


def test_an_answer_that_cannot_be_written_is_an_error_and_the_thread_lives_on() -> None:
    def fail(answered: Any) -> Any:
        raise ZeroDivisionError

    async def work(made: Any, engine: Engine) -> Any:
        with pytest.raises(ZeroDivisionError):
            await made.submit(job(image(1), write=fail))
        return (await made.submit(job(image(2)))).body

    assert with_batcher(work) == b'{"values":[2.0],"batch":1}'


def test_many_images_of_one_job_are_run_in_parts() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        reply = await made.submit(job(image(3, count=40)))
        return engine.seen, len(json.loads(reply.body)["values"])

    assert with_batcher(work) == ([16, 16, 8], 40)


def test_what_waits_is_answered_before_it_closes() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        engine.free.clear()
        jobs = [made.submit(job(image(index))) for index in range(4)]
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        await asyncio.sleep(0.1)
        engine.free.set()
        await closing
        return [(await each).status for each in jobs]

    assert with_batcher(work, workers=2) == [200] * 4


def test_a_client_that_has_gone_does_not_stop_the_thread() -> None:
    async def work(made: Any, engine: Engine) -> Any:
        engine.free.clear()
        gone = made.submit(job(image(1)))
        gone.cancel()
        engine.free.set()
        return (await made.submit(job(image(2)))).status

    assert with_batcher(work) == 200
