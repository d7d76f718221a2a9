"""Conversations held through the `openai` client while everything breaks."""

import asyncio
from dataclasses import dataclass, field
from uuid import uuid4

from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI
from openai.types.responses import Response

from tests.faults.world import World

MODEL = "qwen3.5-plus"
ANSWERED = ("completed", "incomplete")


@dataclass
class Conversation:
    """Record of what one client received."""

    mark: str
    id: str = ""
    acknowledged: list[tuple[str, str, str]] = field(default_factory=list)
    """(response id, what was asked, status), in the order of the answers."""
    tries: int = 0


def client(world: World) -> AsyncOpenAI:
    worker = world.random.choice(world.workers)
    return AsyncOpenAI(base_url=f"{worker.url}/v1", api_key=worker.key, max_retries=0, timeout=30)


async def converse(world: World, talk: Conversation, stop: asyncio.Event) -> None:
    """Turn after turn, each tried again until it is answered."""
    talk.id = f"conv_{await _made(world)}"
    number = 0
    while not stop.is_set():
        asked = f"{talk.mark}-{number}"
        response = await ask(world, talk, asked, stream=number % 2 == 1)
        if response.status == "completed":
            assert response.output_text == asked, (asked, response.output_text)
            number += 1
        talk.acknowledged.append((response.id, asked, str(response.status)))


async def _made(world: World) -> str:
    while True:
        try:
            async with client(world) as openai:
                return (await openai.conversations.create()).id.removeprefix("conv_")
        except APIError:
            await asyncio.sleep(0.1)


async def ask(world: World, talk: Conversation, asked: str, *, stream: bool) -> Response:
    """One turn, tried on any worker until it is answered, with one Idempotency-Key for as long as nothing is known."""
    key = uuid4().hex
    while True:
        talk.tries += 1
        try:
            async with client(world) as openai:
                return await _once(openai, talk.id, asked, key, stream=stream)
        except APIConnectionError:
            pass  # Nobody knows what became of it: the same key again.
        except APIStatusError as error:
            if "everthread-turn" in error.response.headers:
                key = uuid4().hex  # That turn has failed, and says so: a new one.
        except (APIError, _Broken):
            pass
        await asyncio.sleep(0.05)


class _Broken(Exception):
    """A stream ended before its last event."""


async def _once(openai: AsyncOpenAI, conversation: str, asked: str, key: str, *, stream: bool) -> Response:
    words, headers = f"Echo: {asked}", {"Idempotency-Key": key}
    if not stream:
        return await openai.responses.create(model=MODEL, input=words, conversation=conversation, extra_headers=headers)
    heard = ""
    events = await openai.responses.create(
        model=MODEL, input=words, conversation=conversation, extra_headers=headers, stream=True
    )
    async for event in events:
        if event.type == "response.output_text.delta":
            heard += event.delta
        elif event.type in ("response.completed", "response.incomplete", "response.failed"):
            assert asked.startswith(heard)
            return event.response
    raise _Broken
