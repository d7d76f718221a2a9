"""LiteLLM's SDK: the Responses API with a tool, and a second turn on its response."""

import json
import os
import sys

import litellm

how = {
    "model": "openai/qwen3.5-plus",
    "api_base": f"{os.environ['EVERTHREAD_URL']}/v1",
    "api_key": os.environ["EVERTHREAD_KEY"],
}
weather = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
previous = sys.argv[1] if len(sys.argv) > 1 else None
if previous is None:
    first = litellm.responses(input="My name is Ada. What is the weather in Oslo?", tools=[weather], **how)
    call = next(item for item in first.output if item.type == "function_call")
    output = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    last = litellm.responses(input=output, tools=[weather], previous_response_id=first.id, **how)
else:
    last = litellm.responses(input="What is my name?", previous_response_id=previous, **how)
said = "".join(part.text for item in last.output if item.type == "message" for part in item.content)
print(json.dumps({"text": said, "id": last.id}))
