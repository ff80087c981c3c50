"""LangChain's and LlamaIndex's chat models as clients of a `rag:` model: `python frameworks.py URL MODEL QUESTION`.

It runs in an environment of its own (`make clients`), because the frameworks want other versions of what the tests
use. Prints one JSON object: by client, the whole answer and the one put together from its stream.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


def langchain(url: str, model: str, question: str) -> dict[str, Any]:
    """Ask LangChain's ChatOpenAI."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(
        model=model, base_url=f"{url}/v1", api_key="none", temperature=0, max_retries=0, stream_usage=True
    )

    async def streamed() -> list[Any]:
        return [chunk async for chunk in chat.astream(question)]

    chunks = asyncio.run(streamed())
    return {
        "whole": chat.invoke(question).content,
        "streamed": "".join(str(chunk.content) for chunk in chunks),
        "usage": sum(bool(chunk.usage_metadata) for chunk in chunks),
    }


def llama_index(url: str, model: str, question: str) -> dict[str, Any]:
    """Ask LlamaIndex's OpenAILike."""
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    chat = OpenAILike(
        model=model, api_base=f"{url}/v1", api_key="none", is_chat_model=True, temperature=0, max_retries=0
    )
    messages = [ChatMessage(role="user", content=question)]
    return {
        "whole": chat.chat(messages).message.content,
        "streamed": "".join(chunk.delta or "" for chunk in chat.stream_chat(messages)),
        "completed": chat.complete(question).text,
    }


if __name__ == "__main__":
    arguments = sys.argv[1:]
    print(json.dumps({"langchain": langchain(*arguments), "llama_index": llama_index(*arguments)}))
