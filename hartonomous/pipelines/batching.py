"""The one queue before the embedding service: full batches across documents and across requests, after the queries.

Texts of all ingests stand in one line. A call goes out when it is full, or with what there is when none is under way
and none is about to come, so that a lone document never waits and a service under load gets full batches, as many at
once as it takes. A batch that is refused because a text in it is too long is halved until it is known from which
length on texts are refused: those are their own documents' failure and no other's.

Ingests give way to queries. While queries are under way one call goes out at a time, as long as it is short, and then
the service rests from ingests until these had no more than their share of its time; for a while after the last query
no more is under way than the service does in a moment, because the next query would have to wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from hartonomous import log
from hartonomous.clients.embedding import EmbeddingClient, Vector
from hartonomous.core.call import Call
from hartonomous.errors import DeadlineExceededError, ValidationFailedError
from hartonomous.pipelines.grouping import joint, own
from hartonomous.pipelines.traffic import Traffic

Outcome = Vector | ValidationFailedError

# A query counts as under way so long after its end: the next one of the same caller comes at once.
_NEXT_QUERY_S = 0.25
# So long after a query no more is under way than the service does in a moment.
_WARY_S = 30.0
_MOMENT_S = 0.1
# Texts in that moment, as long as it is not known how many texts a second the service takes.
_FIRST_TEXTS = 16
# What a call counts for in the measured rate, beside the one after it.
_FADE = 0.9
_PART = 64
# A call that took longer than so many usual ones was not worked on all the time: an address of it hung.
_HUNG = 4
# So long a text waits at most for others that are being prepared.
_GATHER_S = 0.1


@dataclass(slots=True, eq=False)
class _Wanted:
    """The texts of one caller; `done` is set when every one of them has its outcome."""

    texts: Sequence[str]
    call: Call
    since: float
    done: asyncio.Future[None]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    tokens: float = 0.0


_Batch = list[tuple[_Wanted, int]]


class Announcement:
    """Texts that are about to come; `over` says, once or more than once, that they have come or will not."""

    def __init__(self, arrived: Callable[[], None]) -> None:
        self._arrived: Callable[[], None] | None = arrived

    def over(self) -> None:
        """Let nobody wait for them any more."""
        if self._arrived is not None:
            self._arrived()
            self._arrived = None


class EmbeddingQueue:
    """Embeds the texts of documents. Made inside a running loop; ended by `close`."""

    def __init__(
        self,
        client: EmbeddingClient,
        traffic: Traffic,
        share: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._traffic = traffic
        self._share = share
        self._clock = clock
        self._line: deque[tuple[_Wanted, int]] = deque()
        self._running: dict[asyncio.Task[None], _Batch] = {}
        self._coming = 0
        # Of the last calls: the texts that came back, and the time in which any was under way.
        self._texts, self._busy_s, self._counted_at = 0.0, 0.0, 0.0
        self._resting_until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def capacity(self) -> int:
        """How many texts keep the service busy: those under way, and two batches that wait."""
        return self._client.batch_size * (self._client.concurrency + 2)

    @property
    def part(self) -> int:
        """How many texts of one document go through the queue together."""
        return max(_PART, self._client.batch_size)

    def announce(self) -> Announcement:
        """Say that texts are being prepared: a batch that is not full waits a moment for them."""
        self._coming += 1
        return Announcement(self._arrived)

    def _arrived(self) -> None:
        self._coming -= 1
        if not self._coming and self._line:
            asyncio.get_running_loop().call_soon(self._pump)

    async def embed(
        self, texts: Sequence[str], call: Call, announcement: Announcement | None = None
    ) -> tuple[list[Outcome], float]:
        """Return for each text its vector, or the error that it is too long, and the tokens that they cost.

        `announcement` is the one that was made for these texts.

        Raises what the embedding client raises, DeadlineExceededError when the deadline passes in the line. Cancelled,
        what nobody else waits for is no longer asked for.
        """
        if not texts:
            return [], 0.0
        loop = asyncio.get_running_loop()
        wanted = _Wanted(texts, call, self._clock(), loop.create_future())
        self._line.extend((wanted, index) for index in range(len(texts)))
        if announcement is not None:
            announcement.over()
        loop.call_soon(self._pump)  # whoever comes in this very moment goes into the same call
        try:
            async with asyncio.timeout(call.deadline.remaining):
                await asyncio.wait({wanted.done})
                wanted.done.result()
        except TimeoutError as error:
            raise DeadlineExceededError("The embedding service was busy until the deadline.") from error
        finally:
            if not wanted.done.done() or wanted.done.exception() is not None:
                wanted.done.cancel()
                self._stop_unwanted()
        return [wanted.outcomes[index] for index in range(len(texts))], wanted.tokens

    async def close(self) -> None:
        """End every call under way."""
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _stop_unwanted(self) -> None:
        """End the calls whose every caller has left."""
        for task, batch in self._running.items():
            if all(wanted.done.done() for wanted, _ in batch):
                task.cancel()

    def _pump(self) -> None:
        """Send what may be sent now; called whenever that may have changed."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._line:
            calls, size = self._pace()
            running = len(self._running)
            if running >= calls or (running and len(self._line) < size):
                return  # the end of a call looks again
            wait = self._wait(size)
            if wait > 0:
                # The last query may end before the rest does.
                self._alarm = asyncio.get_running_loop().call_later(min(wait, _NEXT_QUERY_S), self._pump)
                return
            if batch := self._take(size):
                self._send(batch)

    def _wait(self, size: int) -> float:
        """Return for how many seconds no call may go out: the service rests, or a batch is about to get fuller."""
        now = self._clock()
        rest = self._resting_until - now if self._beside_queries else 0.0
        fuller = self._line[0][0].since + _GATHER_S - now if self._coming and len(self._line) < size else 0.0
        return max(rest, fuller)

    @property
    def _beside_queries(self) -> bool:
        return self._share < 1 and self._traffic.quiet_s < _NEXT_QUERY_S

    def _pace(self) -> tuple[int, int]:
        """Return how many calls may be under way, and of how many texts each."""
        size, calls = self._client.batch_size, self._client.concurrency
        if self._share >= 1 or self._traffic.quiet_s > _WARY_S:
            return calls, size
        moment = max(1.0, self._texts / self._busy_s * _MOMENT_S) if self._busy_s else _FIRST_TEXTS
        if self._beside_queries:
            return 1, max(1, min(size, int(moment / 2)))
        # One call's room is left to the queries, where there is more than one.
        calls = max(1, calls - 1)
        return calls, max(1, min(size, int(moment / calls)))

    def _take(self, size: int) -> _Batch:
        batch: _Batch = []
        while self._line and len(batch) < size:
            one = self._line.popleft()
            if not one[0].done.done():
                batch.append(one)
        return batch

    def _send(self, batch: _Batch) -> None:
        if not self._running:
            self._counted_at = self._clock()
        task = asyncio.create_task(self._call(batch))
        self._running[task] = batch
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._pump()

    async def _call(self, batch: _Batch) -> None:
        """Embed a batch and tell everybody in it; raises nothing but a cancellation."""
        started = self._clock()
        call = joint([wanted.call for wanted, _ in batch])
        log.only_about(call)
        try:
            outcomes = await self._embed([wanted.texts[index] for wanted, index in batch], call)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            for wanted in {wanted for wanted, _ in batch}:
                if not wanted.done.done():
                    wanted.done.set_exception(own(error))
        except asyncio.CancelledError:
            for wanted in {wanted for wanted, _ in batch}:
                wanted.done.cancel()  # nobody waits for ever for work that has ended
            raise
        else:
            _settle(batch, outcomes)
        finally:
            now = self._clock()
            self._texts = _FADE * self._texts + len(batch)
            self._busy_s = _FADE * self._busy_s + self._worked(now - self._counted_at)
            self._counted_at = now
            self._resting_until = now + self._worked(now - started) * (1 / self._share - 1)

    def _worked(self, seconds: float) -> float:
        """Return how much of the time of a call the service can have worked on it."""
        usual = self._client.typical_s
        return min(seconds, _HUNG * usual) if usual else seconds

    async def _embed(self, texts: Sequence[str], call: Call) -> list[tuple[Outcome, float]]:
        """Return for each text its outcome and its part of the tokens, by its length."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        outcomes = await self._embed_sorted([texts[index] for index in order], call)
        return [outcome for _, outcome in sorted(zip(order, outcomes, strict=True), key=itemgetter(0))]

    async def _embed_sorted(self, texts: Sequence[str], call: Call) -> list[tuple[Outcome, float]]:
        """Embed texts, the shortest first; longer ones than one that is refused are not asked for by themselves."""
        try:
            embedded = await self._client.embed_documents(texts, call)
        except ValidationFailedError as error:
            if len(texts) == 1:
                return [(error, 0.0)]
            middle = len(texts) // 2
            shorter = await self._embed_sorted(texts[:middle], call)
            if isinstance(shorter[-1][0], ValidationFailedError):
                return [*shorter, *((error, 0.0) for _ in texts[middle:])]
            return [*shorter, *await self._embed_sorted(texts[middle:], call)]
        each = embedded.tokens / max(1, sum(map(len, texts)))
        return [(vector, each * len(text)) for vector, text in zip(embedded.vectors, texts, strict=True)]


def _settle(batch: _Batch, outcomes: Sequence[tuple[Outcome, float]]) -> None:
    """Hand out the outcomes."""
    for (wanted, index), (outcome, tokens) in zip(batch, outcomes, strict=True):
        wanted.outcomes[index] = outcome
        wanted.tokens += tokens
        if len(wanted.outcomes) == len(wanted.texts) and not wanted.done.done():
            wanted.done.set_result(None)
