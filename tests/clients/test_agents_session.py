"""The session for openai-agents: real runs of the SDK, whose history is kept in a thread."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from openai import AsyncOpenAI

from everthread_client import AsyncEverthread, ConnectionFailedError, NotFoundError
from tests.clients.cutting_proxy import CuttingProxy
from tests.service import Service, eventually

if TYPE_CHECKING:
    from everthread_client.agents import EverthreadSession


@pytest.fixture(scope="module")
def agents() -> Any:
    """The module. Importing it takes seconds, so only the worker that runs these tests does so."""
    agents = importlib.import_module("agents")
    agents.set_tracing_disabled(True)
    return agents


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncEverthread]:
    async with AsyncEverthread(service.url, service.key) as client:
        yield client


def session_of(client: AsyncEverthread, name: str | None = None, **options: Any) -> "EverthreadSession":
    session: EverthreadSession = importlib.import_module("everthread_client.agents").EverthreadSession(
        name or f"session-{uuid4().hex}", client, **options
    )
    return session


def agent(agents: Any, service: Service, **fields: Any) -> Any:
    model = agents.OpenAIResponsesModel(
        model="qwen3.5-plus", openai_client=AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key)
    )
    return agents.Agent(name="Assistant", instructions="Be kind.", model=model, **fields)


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"18 degrees in {city}"


async def test_runs_of_an_agent_go_on_after_a_restart(agents: Any, client: AsyncEverthread, service: Service) -> None:
    name = f"session-{uuid4().hex}"
    helper = agent(agents, service, tools=[agents.function_tool(get_weather)])
    first = await agents.Runner.run(helper, "My name is Ada. What is the weather?", session=session_of(client, name))
    assert first.final_output.startswith("The tool answered: 18 degrees")
    # A new object, as in another process.
    restarted = session_of(client, name)
    second = await agents.Runner.run(helper, "What is my name?", session=restarted)
    assert second.final_output == "Ada"
    streamed = agents.Runner.run_streamed(helper, "Recite the conversation", session=restarted)
    assert [event async for event in streamed.stream_events()]
    assert "user: What is my name?" in streamed.final_output
    items = await restarted.get_items()
    assert [item.get("type", "message") for item in items] == [
        "message", "function_call", "function_call_output", *["message"] * 5,
    ]  # fmt: skip
    assert len(await restarted.get_items(limit=2)) == 2
    assert (await restarted.get_items(limit=2)) == items[-2:]
    thread = await client.threads.retrieve(await restarted.thread_id())
    assert thread["name"] == name


async def test_two_agents_that_share_a_session_hand_over(
    agents: Any, client: AsyncEverthread, service: Service
) -> None:
    session = session_of(client)
    expert = agent(agents, service)
    expert.name = "Expert"
    first = agent(agents, service, handoffs=[expert], model_settings=agents.ModelSettings(tool_choice="required"))
    result = await agents.Runner.run(first, "My name is Ada.", session=session)
    assert result.last_agent is expert
    assert (await agents.Runner.run(expert, "What is my name?", session=session)).final_output == "Ada"


async def test_a_session_starts_a_run_with_its_newest_items(
    agents: Any, client: AsyncEverthread, service: Service
) -> None:
    session = session_of(client, session_settings=agents.SessionSettings(limit=2))
    for text in ("My name is Ada.", "Echo: one", "Echo: two"):
        await agents.Runner.run(agent(agents, service), text, session=session)
    assert len(await session.get_items()) == 2
    assert len(await session.get_items(limit=100)) == 6
    assert await session.get_items(limit=0) == []
    known = await agents.Runner.run(agent(agents, service), "What is my name?", session=session)
    assert known.final_output == "I do not know your name."


async def test_items_are_read_in_their_order_and_popped(client: AsyncEverthread) -> None:
    session = session_of(client)
    assert await session.pop_item() is None
    items: list[Any] = [{"role": "user", "content": f"Message {number}"} for number in range(105)]
    await session.add_items(items[:60])
    await session.add_items(items[60:])
    assert await session.get_items() == items
    assert await session.get_items(limit=103) == items[-103:]
    assert await session.pop_item() == items[-1]
    assert await session.get_items() == items[:-1]


async def test_a_session_is_cleared_and_used_again(client: AsyncEverthread) -> None:
    session = session_of(client, user="ada")
    thread = await session.thread_id()
    await session.clear_session()
    items: list[Any] = [{"role": "user", "content": "One"}, {"role": "user", "content": "Two"}]
    await session.add_items(items)
    await session.add_items(items)
    await session.clear_session()
    assert await session.get_items() == []
    await session.add_items(items[:1])
    assert await session.get_items() == items[:1]
    kept = await client.threads.retrieve(thread)
    assert (kept["name"], kept["user"]) == (session.session_id, "ada")


async def test_a_session_of_a_thread_sees_what_was_said_there(client: AsyncEverthread, service: Service) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    session = session_of(client, thread)
    assert [item["role"] for item in await session.get_items()] == ["user", "assistant"]  # type: ignore[typeddict-item]
    await session.add_items([{"role": "user", "content": "My name is Grace."}])
    assert service.turn(thread, "What is my name?")["output_text"] == "Grace"


async def test_a_session_reads_nothing_of_another_user(client: AsyncEverthread, service: Service) -> None:
    others = service.thread(user="grace")
    service.turn(others, "My name is Grace.")
    token = await client.user_tokens.create(user="ada", expires_in=60)
    async with AsyncEverthread(service.url, token["token"]) as browser:
        with pytest.raises(NotFoundError):
            await session_of(browser, others).get_items()


async def test_items_whose_answer_is_lost_are_stored_once(client: AsyncEverthread, service: Service) -> None:
    session = session_of(client)
    thread = await session.thread_id()
    with CuttingProxy(service.port, 0) as proxy:
        async with AsyncEverthread(proxy.url, service.key) as unlucky:
            with pytest.raises(ConnectionFailedError):
                await session_of(unlucky, thread).add_items([{"role": "user", "content": "Once"}])
        assert proxy.connections == 1
    # The service goes on with a request whose connection is lost.
    await asyncio.to_thread(eventually, lambda: len(service.every(f"/conversations/{thread}/items")) == 1)


async def test_concurrent_writes_of_one_session_are_all_kept(client: AsyncEverthread) -> None:
    session = session_of(client)
    await asyncio.gather(*(session.add_items([{"role": "user", "content": str(number)}]) for number in range(10)))
    assert {str(item) for item in await session.get_items()} == {
        str({"role": "user", "content": str(number)}) for number in range(10)
    }
    assert len(await session.get_items()) == 10


async def test_a_run_whose_items_were_stored_takes_them_back_before_it_is_repeated(
    agents: Any, client: AsyncEverthread
) -> None:
    """The runner compares the newest items with its own, so they must come back as they were sent."""
    session = session_of(client)
    await session.add_items([{"role": "user", "content": "Kept"}])
    own: list[Any] = [{"role": "user", "content": "Hello"}]
    await session.add_items(own)
    persistence = importlib.import_module("agents.run_internal.session_persistence")
    await persistence.rewind_session_items(session, own)
    assert await session.get_items() == [{"role": "user", "content": "Kept"}]
