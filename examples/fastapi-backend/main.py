"""A help desk: a model with tools answers customers, and hands a conversation over to a person where that is better."""

import asyncio
import json
import os
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Cookie, Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, Field

from everthread_client import APIError, AsyncEverthread, NotFoundError
from everthread_client.types import Item, Thread

PORT = int(os.environ.get("PORT", "3000"))
PAGE = Path(__file__).with_name("index.html")
STAFF_PASSWORD = os.environ.get("STAFF_PASSWORD") or secrets.token_urlsafe(9)
MODEL = os.environ.get("MODEL", "qwen3.5-plus")
DESK = {"desk": "bicycles"}
"""Metadata of the conversations of this help desk."""

POLICY = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""Header of the page: it loads nothing from elsewhere, and no other page can show it in a frame."""

INSTRUCTIONS = """You answer customers of a bicycle shop, briefly. Look up orders with get_order.
Call hand_over_to_human for refunds, for complaints, and if the customer wants to talk to a person."""
COOKIE_SECONDS = 30 * 86400
"""A conversation is deleted after this time without a message."""

MOST_STEPS = 5
"""Answers of the model to one message, with tool calls between them."""

everthread = AsyncEverthread()  # EVERTHREAD_URL and EVERTHREAD_KEY
app = FastAPI(title="Help desk")
busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
"""One message of a conversation is handled at a time."""


# --- Tools ------------------------------------------------------------------------------------------------------------


async def get_order(thread: str, number: str) -> str:
    """Return the state of an order."""
    orders = {"1001": "shipped, arrives tomorrow", "1002": "waiting for payment"}
    return next((state for known, state in orders.items() if known in number), "There is no such order.")


async def hand_over_to_human(thread: str, reason: str) -> str:
    """Ask a person to continue the conversation."""
    await everthread.threads.update(thread, metadata={**DESK, "handled_by": "person", "reason": reason[:512]})
    return "A colleague was asked to answer here. Tell the customer."


TOOLS = {"get_order": (get_order, "number"), "hand_over_to_human": (hand_over_to_human, "reason")}
"""Each tool with the name of its parameter, which is a text."""

DESCRIPTIONS = [
    {
        "type": "function",
        "name": name,
        "description": tool.__doc__,
        "parameters": {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]},
    }
    for name, (tool, field) in TOOLS.items()
]


async def output_of(thread: str, call: Item) -> Item:
    """Run a tool that the model has called."""
    try:
        tool, field = TOOLS[call["name"]]
        output = await tool(thread, str(json.loads(call["arguments"])[field]))
    except (KeyError, TypeError, ValueError):
        output = "There is no such tool, or its arguments are wrong."
    return {"type": "function_call_output", "call_id": call["call_id"], "output": output}


# --- The conversation -------------------------------------------------------------------------------------------------


async def say(thread: str, role: str, text: str) -> None:
    """Add a message without asking the model. It reads the message when it continues."""
    await everthread.threads.items.add(thread, [{"role": role, "content": text}])


async def answer(thread: str, text: str) -> None:
    """Let the model answer a customer's message, unless a person handles the conversation."""
    async with busy[thread]:
        if is_with_person(await everthread.threads.retrieve(thread)):
            await say(thread, "user", text)
            return
        sent: str | list[Item] = text
        for _ in range(MOST_STEPS):
            stream = everthread.threads.turns.stream(
                thread, input=sent, model=MODEL, instructions=INSTRUCTIONS, tools=DESCRIPTIONS, if_busy="wait"
            )
            try:
                turn = await stream.result()
            except APIError:
                break
            if turn["status"] == "failed":
                break
            calls = [item for item in turn["output"] if item["type"] == "function_call"]
            if not calls:
                return
            sent = [await output_of(thread, call) for call in calls]
        # A failed turn is not part of the conversation, so the message is added for the person.
        if sent is text:
            await say(thread, "user", text)
        await hand_over_to_human(thread, "The model could not answer.")


def is_with_person(thread: Thread) -> bool:
    return thread["metadata"].get("handled_by") == "person"


# --- Who may see which conversation -----------------------------------------------------------------------------------


async def of_customer(chat: Annotated[str | None, Cookie()] = None) -> str:
    """Return the id of the customer's thread. The cookie is a secret; the thread's name is its hash."""
    if chat is None:
        raise HTTPException(401, "Open the page first")
    name = f"desk-{sha256(chat.encode()).hexdigest()}"
    thread = await everthread.threads.get_or_create(name, metadata=DESK, ttl_seconds=COOKIE_SECONDS)
    return thread["id"]


def staff(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    if not secrets.compare_digest(credentials.password.encode(), STAFF_PASSWORD.encode()):
        raise HTTPException(401, "Wrong password", {"WWW-Authenticate": "Basic"})


async def of_desk(thread: str) -> str:
    """Return the id of a thread of this help desk. The key opens all threads of the project."""
    try:
        found = await everthread.threads.retrieve(thread)
    except NotFoundError as error:
        raise HTTPException(404) from error
    if found["metadata"].get("desk") != DESK["desk"]:
        raise HTTPException(404)
    return found["id"]


# --- Routes -----------------------------------------------------------------------------------------------------------


class Message(BaseModel):
    text: str = Field(min_length=1, max_length=4000)


async def conversation(thread: str) -> dict[str, Any]:
    found = await everthread.threads.retrieve(thread)
    page = await anext(everthread.threads.messages(thread, turns=100).pages())
    messages = [
        {"role": item["role"], "text": text_of(item)}
        for item in page["data"]
        if item["type"] == "message" and item["role"] in ("user", "assistant")
    ]
    return {"with_person": is_with_person(found), "messages": messages}


def text_of(message: Item) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


CHANGES = {"snapshot", "thread.updated", "thread.turn.created", "response.completed", "response.incomplete"}
"""Events after which a page reads the conversation again. A stream begins with a snapshot."""


async def live(thread: str) -> AsyncIterator[dict[str, str]]:
    """Yield pieces of the answer that is being written, and an empty object whenever anything else has changed."""
    async with everthread.threads.events(thread) as events:
        async for event in events:
            if event["type"] == "response.output_text.delta":
                yield {"delta": event["delta"]}
            elif event["type"] in CHANGES:
                yield {}


customers = APIRouter(prefix="/api/chat")
people = APIRouter(prefix="/api/staff", dependencies=[Depends(staff)])
Own = Annotated[str, Depends(of_customer)]
OfDesk = Annotated[str, Depends(of_desk)]


@customers.get("")
async def read_own(thread: Own) -> dict[str, Any]:
    return await conversation(thread)


@customers.get("/events", response_class=EventSourceResponse)
async def follow_own(thread: Own) -> AsyncIterator[dict[str, str]]:
    async for event in live(thread):
        yield event


@customers.post("", status_code=204)
async def ask(thread: Own, message: Message) -> None:
    # A customer who leaves the page does not stop the answer.
    await asyncio.shield(asyncio.ensure_future(answer(thread, message.text)))


@people.get("/chats")
async def waiting() -> list[dict[str, str]]:
    """List the conversations that wait for a person."""
    found = everthread.threads.list(metadata={**DESK, "handled_by": "person"})
    return [{"id": thread["id"], "reason": thread["metadata"].get("reason", "")} async for thread in found]


@people.get("/chats/{thread}")
async def read(thread: OfDesk) -> dict[str, Any]:
    return await conversation(thread)


@people.get("/chats/{thread}/events", response_class=EventSourceResponse)
async def follow(thread: OfDesk) -> AsyncIterator[dict[str, str]]:
    async for event in live(thread):
        yield event


@people.post("/chats/{thread}", status_code=204)
async def reply(thread: OfDesk, message: Message) -> None:
    async with busy[thread]:
        await say(thread, "assistant", message.text)


@people.post("/chats/{thread}/return", status_code=204)
async def give_back(thread: OfDesk) -> None:
    """Let the model answer again. It reads what the person and the customer wrote."""
    await everthread.threads.update(thread, metadata=DESK)


@app.get("/")
async def customer_page(chat: Annotated[str | None, Cookie()] = None) -> FileResponse:
    page = FileResponse(PAGE, headers=POLICY)
    if chat is None:
        page.set_cookie("chat", secrets.token_urlsafe(24), httponly=True, samesite="strict", max_age=COOKIE_SECONDS)
    return page


@app.get("/staff", dependencies=[Depends(staff)])
async def staff_page() -> FileResponse:
    return FileResponse(PAGE, headers=POLICY)


app.include_router(customers)
app.include_router(people)

if __name__ == "__main__":
    print(f"Staff: http://127.0.0.1:{PORT}/staff, any name, password {STAFF_PASSWORD}")
    print(f"The help desk is at http://127.0.0.1:{PORT}", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", timeout_graceful_shutdown=2)
