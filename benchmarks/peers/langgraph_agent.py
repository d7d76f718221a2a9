"""A conversation that LangGraph keeps, as its users would write it: one node, which asks the provider.

The provider's id of the last answer is in the thread's state, and the next turn is chained on it.
"""

import os
from typing import Any, TypedDict

import httpx
from langgraph.graph import END, START, StateGraph

client = httpx.AsyncClient(
    base_url=os.environ["UPSTREAM"],
    headers={"Authorization": "Bearer sk-benchmark"},
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=200),
    timeout=120,
)


class State(TypedDict, total=False):
    model: str
    input: str
    output_text: str
    response_id: str


async def ask(state: State) -> dict[str, Any]:
    body = {"model": state["model"], "input": state["input"]}
    if "response_id" in state:
        body["previous_response_id"] = state["response_id"]
    answer = await client.post("/responses", json=body)
    answer.raise_for_status()
    response = answer.json()
    return {"output_text": response["output"][0]["content"][0]["text"], "response_id": response["id"]}


builder = StateGraph(State)
builder.add_node("ask", ask)
builder.add_edge(START, "ask")
builder.add_edge("ask", END)
graph = builder.compile()
