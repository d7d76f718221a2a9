"""LlamaIndex: its Responses model with a tool, and a second turn on its response."""

import json
import os
import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses


def get_weather(city: str) -> str:
    """The weather of a city."""
    return "sunny"


previous = sys.argv[1] if len(sys.argv) > 1 else None
llm = OpenAIResponses(
    model="qwen3.5-plus",
    api_base=f"{os.environ['EVERTHREAD_URL']}/v1",
    api_key=os.environ["EVERTHREAD_KEY"],
    context_window=100_000,
    track_previous_responses=True,
    previous_response_id=previous,
)
if previous is None:
    asked = "My name is Ada. What is the weather in Oslo?"
    said = llm.predict_and_call([FunctionTool.from_defaults(get_weather)], user_msg=asked)
    print(json.dumps({"text": f"The tool answered: {said}", "id": llm._previous_response_id}))
else:
    said = llm.chat([ChatMessage(role="user", content="What is my name?")])
    print(json.dumps({"text": said.message.content, "id": llm._previous_response_id}))
