"""How far it is, on standard error: a bar on a terminal, a line now and then elsewhere, and sentences in between."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from hartonomous.sending.naming import printable
from hartonomous.sending.tally import Tally

if TYPE_CHECKING:
    from rich.progress import Progress

_BAR_EVERY_S = 0.2
_LINE_EVERY_S = 10.0
_RATE_OVER_S = 10.0


class Display(Protocol):
    """Where progress is shown, every `every_s` seconds."""

    every_s: float

    def say(self, sentence: str) -> None:
        """Show a sentence."""

    def update(self, tally: Tally) -> None:
        """Show how far it is."""

    def begin(self) -> None:
        """Begin to show progress."""

    def end(self) -> None:
        """Leave the screen as it should stay."""


class Rate:
    """How fast a count grows, per second, over the last ten seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)])

    def of(self, count: int) -> float:
        """Take in the count as it is now; return the rate."""
        now = self._clock()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _RATE_OVER_S:
            self._seen.popleft()
        begun, before = self._seen[0]
        return (count - before) / (now - begun) if now > begun else 0.0


class Silent:
    """Shows sentences at most."""

    every_s = 3_600.0

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def say(self, sentence: str) -> None:
        """Print a sentence, unless there is nowhere to."""
        if self._stream is not None:
            print(printable(sentence), file=self._stream, flush=True)

    def update(self, tally: Tally) -> None:
        """Show nothing."""

    def begin(self) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Nothing is on the screen."""


class Lines(Silent):
    """A line now and then, for logs."""

    every_s = _LINE_EVERY_S

    def __init__(self, stream: TextIO, every_s: float = _LINE_EVERY_S) -> None:
        super().__init__(stream)
        self.every_s = every_s
        self._tokens, self._chunks = Rate(), Rate()

    def update(self, tally: Tally) -> None:
        """Print how far it is, once there is something to tell."""
        if tally.done:
            self.say(described(tally, self._tokens.of(tally.tokens), self._chunks.of(tally.chunks)))


class Bar:
    """A progress bar."""

    every_s = _BAR_EVERY_S

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._progress: Progress | None = None
        self._tokens, self._chunks = Rate(), Rate()

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(printable(sentence), soft_wrap=True)

    def begin(self) -> None:
        """Draw a bar."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._tokens, self._chunks = Rate(), Rate()
        # Standard output stays what it is: the summary may go into a file.
        self._progress = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._progress.add_task("", total=None)
        self._progress.start()

    def update(self, tally: Tally) -> None:
        """Move the bar."""
        if self._progress is not None:
            text = described(tally, self._tokens.of(tally.tokens), self._chunks.of(tally.chunks))
            (task,) = self._progress.task_ids
            self._progress.update(task, completed=tally.done, total=tally.total, description=text)

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def described(tally: Tally, tokens: float, chunks: float) -> str:
    """Return how far it is; `tokens` and `chunks` are per second."""
    of = "" if tally.total is None else f"/{tally.total:,}"
    parts = [f"{tally.done:,}{of} documents", f"{tally.chunks:,} chunks"]
    if tally.tokens:
        parts.append(f"{tokens:,.0f} tokens/s")
    elif tally.chunks:
        parts.append(f"{chunks:,.0f} chunks/s")
    parts.append(f"{len(tally.failures):,} failed")
    return ", ".join(parts)


def make_display(*, progress: bool, quiet: bool) -> Display:
    """Return what fits standard error as it is."""
    if quiet:
        return Silent(None)
    if not progress:
        return Silent(sys.stderr)
    return Bar(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)


@asynccontextmanager
async def showing(display: Display, tally: Tally) -> AsyncIterator[None]:
    """Show the progress of what is done inside."""
    display.begin()
    task = asyncio.create_task(_tick(display, tally))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        display.end()


async def _tick(display: Display, tally: Tally) -> None:
    while True:
        display.update(tally)
        await asyncio.sleep(display.every_s)
