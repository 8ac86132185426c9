"""A thread that owns an engine: requests go in from any other thread, and events come out, each with its request.

`Model.generate`, `Model.stream` and conversations are its clients, as many at a time as one likes. What they ask for
waits in one queue; the thread does it between two steps, so that nothing else touches the model or the cache.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from jam.generation.active_request import ActiveRequest
from jam.generation.engine import Engine
from jam.generation.events import Event, Finished
from jam.generation.request import Request, Session
from jam.generation.result import Generation

T = TypeVar("T")

LOOK = 0.1  # seconds between two calls of a callback for progress


class EngineLoop:
    """An engine in a thread of its own, which ends when the loop is closed or nobody holds it any more.

    Args:
        engine: is used by nobody else from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._thread = _Thread(engine)
        self._close = weakref.finalize(self, self._thread.end)
        self._thread.start()

    def submit(self, request: Request) -> Stream:
        """Let a request be written. Raises ValueError if it cannot be met (`Engine.submit`)."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request], is_heard: bool = True) -> list[Stream]:
        """Let requests be written from one step on, all of them or none.

        Args:
            is_heard: whether anybody reads their events but the last ones.

        Raises:
            ValueError: one of them cannot be met.
        """
        streams = self._thread.call(lambda: self._thread.submit(requests, is_heard))
        for stream in streams:
            stream.loop = self
        return streams

    def run(
        self, requests: Sequence[Request], on_progress: Callable[[Sequence[Stream]], None] | None = None
    ) -> list[Generation]:
        """Write requests to the end of their documents; if that goes wrong, all of them are cancelled.

        Args:
            on_progress: is called with all streams now and then, and at the end.

        Raises:
            ValueError: a request cannot be met; then none runs. Or one failed, when all have ended.
        """
        streams = self.submit_all(requests, is_heard=False)
        try:
            while on_progress is not None:
                unfinished = [stream for stream in streams if not stream.is_finished]
                if unfinished:
                    unfinished[0].wait(LOOK)
                on_progress(streams)
                if not unfinished:
                    break
            generations = [stream.result() for stream in streams]
            return [generation.checked() for generation in generations]
        finally:
            for stream in streams:
                stream.cancel()

    def end(self, session: Session) -> None:
        """Give the memory of a session back. Raises ValueError while it is answering."""
        self._thread.call(lambda: self._thread.engine.end(session))

    def close(self) -> None:
        """Cancel what is being written, and end the thread."""
        self._close()

    def __enter__(self) -> EngineLoop:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Stream:
    """The events of one request, as they happen; the last one is `Finished`. An error of a step is in its result.

    Attributes:
        loop: stays alive while somebody holds the stream.
    """

    def __init__(self, thread: _Thread, row: ActiveRequest) -> None:
        self.loop: EngineLoop | None = None
        self._thread, self._row = thread, row
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._is_finished, self._is_read = threading.Event(), False

    @property
    def is_finished(self) -> bool:
        return self._is_finished.is_set()

    @property
    def tokens(self) -> int:
        """New ids so far."""
        return len(self._row.new_ids)

    @property
    def images(self) -> int:
        """New pictures that are whole so far."""
        return self._row.images

    @property
    def gaps_filled(self) -> int:
        return self._row.progress.gaps_filled

    def __iter__(self) -> Generator[Event]:
        """The events that were not read yet; an iterator that is left early cancels the request."""
        try:
            while not self._is_read:
                event = self._events.get()
                self._is_read = isinstance(event, Finished)
                yield event
        finally:
            self.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the document ends within `timeout` seconds; None: it is waited for."""
        return self._is_finished.wait(timeout)

    def result(self) -> Generation:
        """What was written, when the document has ended."""
        self.wait()
        return self._row.result()

    def cancel(self) -> None:
        """End the document with the next step; what is whole of it stays. No effect if it is finished."""
        if not self.is_finished:
            self._thread.post(lambda: self._thread.cancel(self._row))

    def _put(self, event: Event) -> None:
        self._events.put(event)
        if isinstance(event, Finished):
            self._is_finished.set()


class _Thread(threading.Thread):
    """The thread itself; it knows nothing of the `EngineLoop`, so that one that nobody holds can end it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="jam engine", daemon=True)
        self.engine = engine
        self._asked: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._streams: dict[int, Stream] = {}
        self._goes_on = True

    def run(self) -> None:
        try:
            while self._goes_on:
                self._do_what_is_asked(wait=self.engine.is_idle)
                if not self.engine.is_idle:
                    self._step()
            for stream in [*self._streams.values()]:
                self.cancel(stream._row)
            while not self.engine.is_idle:
                self._step()
        finally:
            self._end_all()

    def post(self, call: Callable[[], object]) -> None:
        """Let the thread call something between two steps."""
        self._asked.put(call)

    def call(self, function: Callable[[], T]) -> T:
        """The same, and what came out. Raises what it raised, or ValueError if the thread has ended."""
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(error)

        self.post(work)
        while self.is_alive() and not answer.done():
            wait([answer], timeout=1)
        if not answer.done():
            raise ValueError("this engine has been closed; make another one")
        return answer.result()

    def end(self) -> None:
        """Let the thread end, and wait for it."""

        def stop() -> None:
            self._goes_on = False

        self.post(stop)
        if threading.current_thread() is not self:
            self.join()

    def submit(self, requests: Sequence[Request], is_heard: bool) -> list[Stream]:
        streams = [Stream(self, row) for row in self.engine.submit_all(requests, is_heard)]
        self._streams |= {stream._row.id: stream for stream in streams}
        return streams

    def cancel(self, row: ActiveRequest) -> None:
        """End a document; what is raised meanwhile (its text cannot be read) is in its result."""
        with suppress(Exception):
            self.engine.cancel(row)

    def _end_all(self) -> None:
        """Nobody waits for ever: documents that are not finished fail, where an error ended the thread itself."""
        for row, stream in [(stream._row, stream) for stream in self._streams.values()]:
            if row.finish_reason is None:
                row.fail(sys.exception() or RuntimeError("the engine has been closed"))
            stream._put(Finished(row.id, row.result()))

    def _do_what_is_asked(self, wait: bool) -> None:
        try:
            self._asked.get(block=wait)()
            while True:
                self._asked.get(block=False)()
        except Empty:
            pass

    def _step(self) -> None:
        """One step. What it raises is in the results of the documents that it has ended; others continue."""
        try:
            events = self.engine.step()
        except Exception:
            return
        for event in events:
            stream = self._streams[event.id]
            if isinstance(event, Finished):
                del self._streams[event.id]
            stream._put(event)
