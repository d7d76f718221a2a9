"""A provider that costs as little as can be: canned bytes from a bare asyncio protocol.

    python -m benchmarks.stub PORT

What it answers is read off the request: `deltas=N` in its input asks for a stream of N deltas, `pause=MS` for
that many milliseconds before each; `say=N` for a plain answer of N characters, another one each time. Without pauses
the deltas are written one by one all the same. Servers that ask for chat completions get the same words that way.
"""

import asyncio
import random
import re
import sys

import orjson
import uvloop

from benchmarks.words import text

WORD = "lorem "
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_DELTAS = re.compile(rb"deltas=(\d+)")
_SAY = re.compile(rb"say=(\d+)")
_PAUSE = re.compile(rb"pause=(\d+)")


def response(number: int, text: str, status: str = "completed") -> dict[str, object]:
    message = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
    usage = {
        "input_tokens": 20,
        "output_tokens": 20,
        "total_tokens": 40,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    done = status == "completed"
    return {
        "id": f"resp_stub_{number}",
        "object": "response",
        "created_at": 1_800_000_000,
        "status": status,
        "model": "qwen3.5-plus",
        "output": [message] if done else [],
        "usage": usage if done else None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def completion(number: int, text: str) -> dict[str, object]:
    """A Chat Completions answer with the same words."""
    return {
        "id": f"chatcmpl-stub_{number}",
        "object": "chat.completion",
        "created": 1_800_000_000,
        "model": "qwen3.5-plus",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40},
    }


def chunk(number: int, delta: dict[str, object], *, finished: bool = False) -> bytes:
    """An event of a streamed Chat Completions answer."""
    whole = completion(number, "")
    choice = {"index": 0, "delta": delta, "finish_reason": "stop" if finished else None}
    usage = {"usage": whole["usage"]} if finished else {}
    event = {**whole, "object": "chat.completion.chunk", "choices": [choice], "usage": None, **usage}
    return b"data: %b\n\n" % orjson.dumps(event)


def frame(number: int, event: dict[str, object]) -> bytes:
    data = orjson.dumps({**event, "sequence_number": number})
    return b"id:%d\nevent:%b\n:HTTP_STATUS/200\ndata:%b\n\n" % (number, str(event["type"]).encode(), data)


class Provider(asyncio.Protocol):
    number = 0
    plain_head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    stream_head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self.received, 0, end)
            length = int(found[1]) if found else 0
            if len(self.received) < end + 4 + length:
                return
            chat = b"/chat/completions" in self.received[: self.received.find(b"\r\n")]
            body = self.received[end + 4 : end + 4 + length]
            self.received = self.received[end + 4 + length :]
            self.answer(body, chat=chat)

    def answer(self, body: bytes, *, chat: bool) -> None:
        Provider.number += 1
        number = Provider.number
        deltas = _DELTAS.search(body)
        if b'"stream":true' not in body.replace(b" ", b""):
            said = _SAY.search(body)
            words = WORD * 20 if said is None else text(int(said[1]), random.Random(number))  # noqa: S311
            answer = orjson.dumps(completion(number, words) if chat else response(number, words))
            self.transport.write(self.plain_head % len(answer) + answer)
            return
        pause = _PAUSE.search(body)
        count = int(deltas[1]) if deltas else 20
        self.transport.write(self.stream_head)
        stream = self.chat_stream if chat else self.stream
        asyncio.get_running_loop().create_task(stream(number, count, int(pause[1]) / 1000 if pause else 0))

    async def stream(self, number: int, count: int, pause: float) -> None:
        at = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": []}
        item = {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        whole = WORD * count
        finished = response(number, whole)
        opening: list[dict[str, object]] = [
            {"type": "response.created", "response": response(number, "", "in_progress")},
            {"type": "response.in_progress", "response": response(number, "", "in_progress")},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.content_part.added", "part": part, **at},
        ]
        closing: list[dict[str, object]] = [
            {"type": "response.output_text.done", "text": whole, **at},
            {"type": "response.content_part.done", "part": {**part, "text": whole}, **at},
            {"type": "response.output_item.done", "output_index": 0, "item": finished["output"][0]},  # type: ignore[index]
            {"type": "response.completed", "response": finished},
        ]
        place = 0
        for event in opening:
            self.send(frame(place, event))
            place += 1
        for _ in range(count):
            if pause:
                await asyncio.sleep(pause)
            self.send(frame(place, {"type": "response.output_text.delta", "delta": WORD, "logprobs": [], **at}))
            place += 1
        for event in closing:
            self.send(frame(place, event))
            place += 1
        self.transport.write(b"0\r\n\r\n")

    async def chat_stream(self, number: int, count: int, pause: float) -> None:
        self.send(chunk(number, {"role": "assistant"}))
        for _ in range(count):
            if pause:
                await asyncio.sleep(pause)
            self.send(chunk(number, {"content": WORD}))
        self.send(chunk(number, {}, finished=True))
        self.send(b"data: [DONE]\n\n")
        self.transport.write(b"0\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
