"""pydantic-ai: an agent with a tool, and a second turn on its response."""

import json
import os
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

url, key = f"{os.environ['EVERTHREAD_URL']}/v1", os.environ["EVERTHREAD_KEY"]
agent = Agent(OpenAIResponsesModel("qwen3.5-plus", provider=OpenAIProvider(base_url=url, api_key=key)))


@agent.tool_plain
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "sunny"


previous = sys.argv[1] if len(sys.argv) > 1 else None
settings = OpenAIResponsesModelSettings(openai_previous_response_id=previous) if previous else None
asked = "What is my name?" if previous else "My name is Ada. What is the weather in Oslo?"
result = agent.run_sync(asked, model_settings=settings)
print(json.dumps({"text": result.output, "id": result.response.provider_response_id}))
