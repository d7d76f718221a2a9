"""Frameworks of the field, unchanged except for base URL and key."""

import importlib
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import SecretStr

from tests.service import Emulator, Service


@pytest.fixture(scope="module")
def agents() -> Any:
    """The module. Importing it takes seconds, so only the worker that runs these tests does so."""
    agents = importlib.import_module("agents")
    agents.set_tracing_disabled(True)
    return agents


@pytest.fixture
def client(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key)


def agent(agents: Any, client: AsyncOpenAI, **fields: Any) -> Any:
    model = agents.OpenAIResponsesModel(model="qwen3.5-plus", openai_client=client)
    return agents.Agent(name="Assistant", instructions="Be kind.", model=model, **fields)


async def test_agents_sdk_with_previous_response_id(agents: Any, client: AsyncOpenAI, emulator: Emulator) -> None:
    first = await agents.Runner.run(agent(agents, client), "My name is Ada.")
    emulator.forget()
    second = await agents.Runner.run(
        agent(agents, client), "What is my name?", previous_response_id=first.last_response_id
    )
    assert second.final_output == "Ada"


async def test_agents_sdk_with_conversation_id(agents: Any, client: AsyncOpenAI, emulator: Emulator) -> None:
    conversation = await client.conversations.create()
    await agents.Runner.run(agent(agents, client), "My name is Ada.", conversation_id=conversation.id)
    emulator.forget()
    second = await agents.Runner.run(agent(agents, client), "What is my name?", conversation_id=conversation.id)
    assert second.final_output == "Ada"


async def test_agents_sdk_with_its_conversations_session(agents: Any, client: AsyncOpenAI) -> None:
    session = agents.OpenAIConversationsSession(openai_client=client)
    await agents.Runner.run(agent(agents, client), "My name is Ada.", session=session)
    second = await agents.Runner.run(agent(agents, client), "What is my name?", session=session)
    assert second.final_output == "Ada"
    assert len(await session.get_items()) == 4
    popped = await session.pop_item()
    assert popped is not None
    await session.clear_session()


@pytest.mark.parametrize("streamed", [False, True])
async def test_agents_sdk_runs_a_tool_and_goes_on(agents: Any, client: AsyncOpenAI, streamed: bool) -> None:
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"18 degrees in {city}"

    required = agents.ModelSettings(tool_choice="required")
    helper = agent(agents, client, tools=[agents.function_tool(weather)], model_settings=required)
    if streamed:
        result = agents.Runner.run_streamed(helper, "Paris")
        deltas = [event async for event in result.stream_events()]
        assert deltas
        assert result.final_output == "The tool answered: 18 degrees in Paris"
    else:
        assert (await agents.Runner.run(helper, "Paris")).final_output == "The tool answered: 18 degrees in Paris"


async def test_langchain_with_the_responses_api(service: Service, emulator: Emulator) -> None:
    model = importlib.import_module("langchain_openai").ChatOpenAI(
        model="qwen3.5-plus",
        base_url=f"{service.url}/v1",
        api_key=SecretStr(service.key),
        use_responses_api=True,
    )
    first = await model.ainvoke("My name is Ada.")
    emulator.forget()
    second = await model.ainvoke("What is my name?", previous_response_id=first.response_metadata["id"])
    assert second.text == "Ada"
    chunks = [chunk async for chunk in model.astream("Echo: one two three four")]
    assert "".join(chunk.text for chunk in chunks) == "one two three four"
    listed = await model.ainvoke([("system", "Be kind."), ("human", "Recite the conversation")])
    assert listed.text == "system: Be kind.\nuser: Recite the conversation"
