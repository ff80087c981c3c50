"""The callers of the OpenAI-compatible half, and those who watch the server."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.chaos.client import Client, Exchange, Wish
from tests.chaos.streams import Events
from tests.chaos.texts import COLLECTIONS, QUESTIONS

_CHAT = "/v1/chat/completions"


class Relayer:
    """Asks the model services through the application."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def chat(self, chance: Random) -> None:
        """Ask the generative service for a whole answer."""
        wish = Wish(relayed="generative")
        exchange = await self._client.send("chat", "POST", _CHAT, _chat(chance), wish)
        if exchange.ok and not self._client.lied("generative", exchange):
            self._judge(exchange, lambda answer: answer["choices"][0]["message"]["content"])

    async def chat_and_leave(self, chance: Random) -> None:
        """Ask for a long answer and leave before it is there."""
        body = _chat(chance) | {"max_tokens": 400, "stream": chance.random() < 0.5}
        wish = Wish(leave_after_s=chance.uniform(0.005, 0.5), relayed="generative")
        await self._client.send("chat, leaving", "POST", _CHAT, body, wish)

    async def chat_streamed(self, chance: Random) -> None:
        """Read an answer as it comes."""
        events = Events(leave_after=chance.randint(1, 8) if chance.random() < 0.3 else None)
        wish = Wish(read=events.read, relayed="generative")
        body = _chat(chance) | {"stream": True, "max_tokens": chance.randint(4, 40)}
        exchange = await self._client.send("chat, streamed", "POST", _CHAT, body, wish)
        if exchange.ok and not self._client.lied("generative", exchange):
            self._judge_stream(exchange, events)

    async def rag_model(self, chance: Random) -> None:
        """Ask a collection as if it were a chat model."""
        body = _chat(chance) | {"model": f"rag:{chance.choice(COLLECTIONS)}"}
        if chance.random() < 0.5:
            exchange = await self._client.send("chat rag:", "POST", _CHAT, body)
            if exchange.ok:
                self._judge(exchange, lambda answer: (answer["choices"][0]["message"]["content"], answer["citations"]))
            return
        events = Events()
        wish = Wish(read=events.read)
        exchange = await self._client.send("chat rag:, streamed", "POST", _CHAT, body | {"stream": True}, wish)
        if exchange.ok:
            self._judge_stream(exchange, events)

    async def embeddings(self, chance: Random) -> None:
        """Embed some texts."""
        texts = [f"text number {chance.randint(1, 10**6)}" for _ in range(chance.randint(1, 4))]
        wish = Wish(relayed="embedding")
        exchange = await self._client.send("embeddings", "POST", "/v1/embeddings", {"input": texts}, wish)
        if exchange.ok and not self._client.lied("embedding", exchange):
            self._judge(
                exchange, lambda answer: [len(item["embedding"]) for item in answer["data"]] == [32] * len(texts)
            )

    async def rerank(self, chance: Random) -> None:
        """Rerank some texts: each comes back once, best first, whatever the service says."""
        texts = [f"text number {chance.randint(1, 10**6)}" for _ in range(chance.randint(1, 6))]
        body = {"query": chance.choice(QUESTIONS), "documents": texts}
        exchange = await self._client.send("rerank", "POST", "/v1/rerank", body)
        if exchange.ok:
            self._judge(exchange, lambda answer: _ranked(answer["results"], len(texts)))

    async def models(self, chance: Random) -> None:
        """List the models."""
        exchange = await self._client.send("models", "GET", "/v1/models")
        if exchange.ok:
            self._judge(exchange, lambda answer: isinstance(answer["data"], list))

    async def health(self, chance: Random) -> None:
        """Ask how the server is: it always knows, and at once."""
        exchange = await self._client.send("health", "GET", "/health", wish=Wish(limit_s=1.0))
        if exchange.ok:
            self._judge(exchange, lambda answer: answer["status"] in {"ok", "degraded"})

    async def ready(self, chance: Random) -> None:
        """Ask whether it is ready."""
        exchange = await self._client.send("ready", "GET", "/ready", wish=Wish(limit_s=1.0, plain=True))
        if exchange.whole:
            self._judge(exchange, lambda answer: (exchange.status == 503) == bool(answer["reasons"]))

    async def metrics(self, chance: Random) -> None:
        """Read the metrics."""
        exchange = await self._client.send("metrics", "GET", "/metrics", wish=Wish(limit_s=1.0))
        if exchange.ok and b"hartonomous_http_requests_total" not in exchange.body:
            self._client.wrong(exchange, "no metrics")

    def _judge(self, exchange: Exchange, look: Any) -> None:
        """Look at an answer, which must be JSON of the known shape."""
        try:
            right = look(exchange.json) not in (False, None)
        except (KeyError, IndexError, TypeError):
            right = False
        if not right:
            self._client.wrong(exchange, f"{exchange.body[:300]!r}")

    def _judge_stream(self, exchange: Exchange, events: Events) -> None:
        if (fault := events.wrong_with_chat()) is not None:
            self._client.wrong(exchange, fault, "half a stream")


def _ranked(results: list[dict[str, Any]], count: int) -> bool:
    scores = [result["relevance_score"] for result in results]
    return sorted(result["index"] for result in results) == list(range(count)) and scores == sorted(
        scores, reverse=True
    )


def _chat(chance: Random) -> dict[str, Any]:
    question = f"{chance.choice(QUESTIONS)} {chance.randint(1, 100)}"
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 16, "temperature": 0.0}
