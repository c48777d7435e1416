"""`isoloss watch`: the report's page of a study that trains, served on the loopback address and kept up to date.

One thread reads and renders, so seldom that the process takes MAX_SHARE of the machine, and all readers get the same
bytes. Server-sent events name the newest version; a reader that is slow skips some and holds nobody up.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isoloss.errors import IsolossError
from isoloss.report.page import Section
from isoloss.store.layout import StudyPaths

Value = TypeVar("Value")
HOSTS = ("127.0.0.1", "localhost", "[::1]")
MAX_SHARE = 0.01
"""Of the machine's processor time that reading and rendering may take."""
MIN_INTERVAL_S, MAX_INTERVAL_S, KEEP_ALIVE_S = 1.0, 600.0, 15.0
HEADERS = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class LiveData:
    """What changes with every row: the explorer's data, and in words how far the study is."""

    explorer: str
    progress: str


class Rendering(Protocol):
    """What renders a study: `report/study_report.py` has the one that reads a study's folder.

    Each method reads anew and raises IsolossError when the study cannot be read.
    """

    def data(self) -> LiveData:
        """What changes with every row."""
        ...

    def sections(self) -> Sequence[Section]:
        """The chapters, which change when runs end."""
        ...

    def page(self, data: LiveData, sections: Sequence[Section], version: str) -> str:
        """The whole page."""
        ...


@dataclass
class Part(Generic[Value]):
    """Something rendered now and then: its newest value and number, and when its cost allows the next."""

    render: Callable[[], Value]
    value: Value
    number: int = 0
    due: float = 0.0

    def renew(self, cores: int) -> None:
        """Render again; the processor time that took decides how long it is left alone. Raises IsolossError."""
        began = time.process_time()
        try:
            value = self.render()
        finally:
            pause = (time.process_time() - began) / (MAX_SHARE * cores)
            self.due = time.monotonic() + min(max(pause, MIN_INTERVAL_S), MAX_INTERVAL_S)
        if value != self.value:
            self.value, self.number = value, self.number + 1


class LiveStudy:
    """The newest version of a study's page, renewed while its files change."""

    def __init__(self, folder: Path, rendering: Rendering) -> None:
        self._folder, self._rendering = folder, rendering
        self._data = Part(rendering.data, LiveData("", ""))
        self._sections: Part[Sequence[Section]] = Part(rendering.sections, ())
        self._rows: object = None
        self._ended: object = None
        self._look_s = 0.0
        self._problem = ""
        self._page = "", ""
        self._changed = asyncio.Condition()
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def read(self) -> bool:
        """Render what changed and may be rendered again; whether readers have something new to hear."""
        before, now, began = self.event, time.monotonic(), time.process_time()
        try:
            rows, ended = _rows(self._folder), _ended(self._folder)
            self._look_s = time.process_time() - began
            if now >= self._data.due and self._rows != rows:
                self._data.renew(self._cores)
                self._rows = rows
            if now >= self._sections.due and self._ended != ended:
                self._sections.renew(self._cores)
                self._ended = ended
            self._problem = ""
        except (IsolossError, OSError) as error:
            self._problem = f"The study cannot be read just now: {error}"
        return self.event != before

    async def keep_reading(self) -> None:
        """Read now and then, off the event loop, and wake the readers."""
        while True:
            if await asyncio.to_thread(self.read):
                async with self._changed:
                    self._changed.notify_all()
            await asyncio.sleep(max(MIN_INTERVAL_S, self._look_s / (MAX_SHARE * self._cores)))

    @property
    def event(self) -> str:
        """The message that names the newest version."""
        state = self._problem or self._data.value.progress
        return json.dumps({"data": self._data.number, "sections": self._sections.number, "state": state})

    @property
    def data(self) -> str:
        """The explorer's data."""
        return self._data.value.explorer

    @property
    def sections(self) -> dict[str, str]:
        """The markup of each chapter."""
        return {section.id: section.html for section in self._sections.value}

    def page(self) -> str:
        """The page at its newest version. Raises IsolossError."""
        version = f"{self._data.number}.{self._sections.number}"
        if self._page[0] != version:
            self._page = version, self._rendering.page(self._data.value, self._sections.value, version)
        return self._page[1]

    async def events(self) -> AsyncIterator[str]:
        """A server-sent event now and for every new version; a comment now and then keeps the connection."""
        while True:
            sent = self.event
            yield f"data: {sent}\n\n"
            while self.event == sent:
                async with self._changed:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), KEEP_ALIVE_S)
                        continue
                yield ": nothing new\n\n"


def live_app(study: LiveStudy) -> Starlette:
    """The server: the page, its data and sections, and the events. It reads nothing but what the study renders."""

    async def page(_: Request) -> Response:
        return HTMLResponse(await asyncio.to_thread(study.page))

    async def data(_: Request) -> Response:
        return PlainTextResponse(study.data)

    async def sections(_: Request) -> Response:
        return JSONResponse(study.sections)

    async def events(_: Request) -> Response:
        return StreamingResponse(study.events(), media_type="text/event-stream")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        await asyncio.to_thread(study.read)  # so that nobody gets a page with nothing on it
        reading = asyncio.create_task(study.keep_reading())
        yield
        reading.cancel()

    routes = [Route("/", page), Route("/data", data), Route("/sections", sections), Route("/events", events)]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False),
        Middleware(SameOrigin),
    ]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


class SameOrigin:
    """Refuses requests that a page of another origin makes, and adds the headers every answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = Request(scope)
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{request.headers.get('host')}":
            return await PlainTextResponse("this page is for its own origin", 403)(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        return await self._app(scope, receive, with_headers)


def _rows(folder: Path) -> object:
    """Sizes and times of the files that runs write, which change with every row."""
    runs = StudyPaths(folder).folder / "runs"
    return [
        (entry.name, facts.st_size, facts.st_mtime_ns)
        for run in sorted(os.scandir(runs), key=lambda each: each.name)
        for entry in os.scandir(run.path)
        if entry.name in ("evals.jsonl", "metrics.jsonl", "status.json")
        for facts in (entry.stat(),)
    ]


def _ended(folder: Path) -> object:
    """What changes when a run begins or ends, or seeds and hypotheses are added."""
    paths = StudyPaths(folder)
    status = sorted((paths.folder / "runs").glob("*/status.json"))
    return [(path.parent.name, path.stat().st_mtime_ns) for path in (paths.study, *status)]
