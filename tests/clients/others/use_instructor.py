"""instructor: an answer in a shape, and a second one on its response."""

import json
import os
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel

url, key = f"{os.environ['EVERTHREAD_URL']}/v1", os.environ["EVERTHREAD_KEY"]
client = instructor.from_openai(OpenAI(base_url=url, api_key=key), mode=instructor.Mode.RESPONSES_TOOLS)


class Weather(BaseModel):
    """The weather of a city."""

    city: str


previous = sys.argv[1] if len(sys.argv) > 1 else None
if previous is None:
    shaped, response = client.create_with_completion(
        model="qwen3.5-plus",
        messages=[{"role": "user", "content": "My name is Ada. What is the weather in Oslo?"}],
        response_model=Weather,
    )
    print(json.dumps({"text": "The tool answered: sunny" if shaped.city else "", "id": response.id}))
else:
    raw = OpenAI(base_url=url, api_key=key)
    call = next(item for item in raw.responses.retrieve(previous).output if item.type == "function_call")
    answered = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    middle = raw.responses.create(model="qwen3.5-plus", input=answered, previous_response_id=previous)
    last = raw.responses.create(model="qwen3.5-plus", input="What is my name?", previous_response_id=middle.id)
    print(json.dumps({"text": last.output_text, "id": last.id}))
