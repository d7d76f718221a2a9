"""instructor in its default mode: Chat Completions, with its tools nested as Chat has them."""

import os

import instructor
from openai import OpenAI
from pydantic import BaseModel

url, key = f"{os.environ['EVERTHREAD_URL']}/v1", os.environ["EVERTHREAD_KEY"]
client = instructor.from_openai(OpenAI(base_url=url, api_key=key))


class Weather(BaseModel):
    """The weather of a city."""

    city: str


asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
plain = client.chat.completions.create(model="qwen3.5-plus", messages=asked, response_model=Weather)
*_, streamed = client.chat.completions.create_partial(model="qwen3.5-plus", messages=asked, response_model=Weather)
assert plain.city == streamed.city
print(plain.city)
