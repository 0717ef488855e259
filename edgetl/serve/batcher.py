"""Threads that answer: a bounded queue, deadlines, and requests run together where that pays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np

from edgetl.errors import DataError, SessionError
from edgetl.records import FloatArray, ImageArray
from edgetl.runtime import Session
from edgetl.serve.replies import RefusedError, Reply

__all__ = ["Answered", "Batcher", "Job", "Read"]

# Images that an engine is given at once at the most, so that memory is bounded whatever a request holds.
AT_ONCE = 16
FULL = "too many requests wait already. Try again in a second"
LATE = "this request waited longer than it may. Try again, or send fewer at once"


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What was sent, as images: uint8 of shape (images, height, width, 3), and the seconds that took."""

    images: ImageArray
    decode_seconds: float = 0.0
    preprocess_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """Logits of shape (images, classes) for what was read, and the seconds of each step."""

    logits: FloatArray
    read: Read
    queue_seconds: float
    inference_seconds: float
    batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A request that waits: how it is read and answered, both on a thread that is not the event loop's."""

    read: Callable[[], Read]
    write: Callable[[Answered], Reply]
    arrived: float
    deadline: float
    done: asyncio.Future[Reply]

    def settle(self, outcome: Reply | BaseException) -> None:
        """Hand the outcome to the event loop; one that is gone wants none."""
        try:
            self.done.get_loop().call_soon_threadsafe(_settle, self.done, outcome)
        except RuntimeError:
            return


class Batcher:
    """Answers with one session on a fixed number of threads; `submit` and `close` belong to the event loop's thread.

    Args:
        session: what answers.
        workers: threads.
        queue: jobs that may wait.
        batch: jobs that are run together at the most.
        delay_seconds: to wait for a batch to fill.
    """

    def __init__(self, session: Session, workers: int, queue: int, batch: int = 1, delay_seconds: float = 0.0) -> None:
        self._session = session
        self._capacity = queue
        self._batch = batch
        self._delay = delay_seconds
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"answers-{index}", daemon=True) for index in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def is_full(self) -> bool:
        """Whether one more job would be refused."""
        return self._jobs.qsize() >= self._capacity

    def submit(self, job: Job) -> asyncio.Future[Reply]:
        """Return the future of a job's reply; it raises what reading, running or writing did.

        Raises:
            RefusedError: the queue is full.
        """
        if self.is_full:
            raise RefusedError(503, "queue_full", FULL, ((b"retry-after", b"1"),))
        self._jobs.put(job)
        return job.done

    def close(self) -> None:
        """Answer what waits, then end the threads; takes as long as that takes."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._answer([job] if self._batch == 1 else self._gather(job))

    def _gather(self, first: Job) -> list[Job]:
        """Return the first job and those that come before the batch is full or the delay is over."""
        jobs, end = [first], time.monotonic() + self._delay
        while len(jobs) < self._batch:
            try:
                job = self._jobs.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                break
            if job is None:  # meant for the thread, which ends after these
                self._jobs.put(None)
                break
            jobs.append(job)
        return jobs

    def _answer(self, jobs: list[Job]) -> None:
        started = time.monotonic()
        ready: list[tuple[Job, Read]] = []
        for job in jobs:
            if started > job.deadline:
                job.settle(RefusedError(504, "expired", LATE))
                continue
            try:
                ready.append((job, job.read()))
            except Exception as error:  # whatever it is, the client waits for it
                job.settle(_refused(error))
        if not ready:
            return
        begun = time.monotonic()
        try:
            images = ready[0][1].images if len(ready) == 1 else np.concatenate([read.images for _, read in ready])
            logits = self._run(images)
        except Exception as error:  # as above
            for job, _ in ready:
                job.settle(_refused(error))
            return
        seconds, first = time.monotonic() - begun, 0
        for job, read in ready:
            count = len(read.images)
            answered = Answered(
                logits=logits[first : first + count],
                read=read,
                queue_seconds=started - job.arrived,
                inference_seconds=seconds,
                batch=len(images),
            )
            first += count
            try:
                job.settle(job.write(answered))
            except Exception as error:  # as above
                job.settle(_refused(error))

    def _run(self, images: ImageArray) -> FloatArray:
        if len(images) <= AT_ONCE:
            return self._session.run(images)
        parts = [self._session.run(images[start : start + AT_ONCE]) for start in range(0, len(images), AT_ONCE)]
        return np.concatenate(parts)


def _refused(error: Exception) -> Exception:
    """Return what a client is told of an error: whose fault it is decides the status."""
    if isinstance(error, DataError):
        return RefusedError(400, "unreadable", str(error))
    if isinstance(error, SessionError):
        return RefusedError(503, "device", str(error), ((b"retry-after", b"1"),))
    # Its traceback holds on to the photos, and is in a circle with what waits for it.
    return error.with_traceback(None) if isinstance(error, RefusedError) else error


def _settle(done: asyncio.Future[Reply], outcome: Reply | BaseException) -> None:
    if done.done():  # the client has gone
        return
    if isinstance(outcome, BaseException):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
