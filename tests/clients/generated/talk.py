"""A conversation by the client that openapi-python-client makes of the document."""

import json
import os

from everthread_client import AuthenticatedClient
from everthread_client.api.admin import admin_list_keys
from everthread_client.api.history import history_create
from everthread_client.api.responses import responses_create, responses_retrieve
from everthread_client.api.threads import threads_get
from everthread_client.api.turns import turns_create, turns_list_turns
from everthread_client.models import (
    Error,
    KeyList,
    ResponseCreate,
    ResponseObject,
    Thread,
    ThreadCreate,
    Turn,
    TurnCreate,
    TurnList,
)
from everthread_client.models.turns_list_turns_order import TurnsListTurnsOrder

client = AuthenticatedClient(os.environ["EVERTHREAD_URL"], os.environ["EVERTHREAD_KEY"])
thread = history_create.sync(client=client, body=ThreadCreate(title="A talk"))
assert isinstance(thread, Thread)
turns = [
    turns_create.sync(thread.id, client=client, body=TurnCreate(input_=said))
    for said in ("My name is Ada.", "What is my name?")
]
assert isinstance(turns[1], Turn)
listed = turns_list_turns.sync(thread.id, client=client, order=TurnsListTurnsOrder.ASC, limit=10)
assert isinstance(listed, TurnList)
refused = threads_get.sync("thread_x", client=client)
assert isinstance(refused, Error)
response = responses_create.sync(client=client, body=ResponseCreate(input_="Echo: hi", model="qwen3.5-plus"))
assert isinstance(response, ResponseObject)
again = responses_retrieve.sync(response.id, client=client)
assert isinstance(again, ResponseObject)
assert again.output == response.output
keys = admin_list_keys.sync(os.environ["EVERTHREAD_PROJECT"], client=client)
assert isinstance(keys, KeyList)
assert len(keys.data) >= 1
print(json.dumps({"text": turns[1].output_text, "turns": len(listed.data), "code": refused.error.code}))
