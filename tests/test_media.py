"""Images, videos, audio and files: sent to the models that take them, stored once, and gone with their last item."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.items import media
from tests.service import Emulator, Service

ASK = "What is my name?"
SEES_VIDEO = "qwen3.7-plus"
HEARS = "qwen3.8-omni-flash"
TEXT_ONLY = "qwen-flash"

LONG = 4096


def image(letter: str, size: int = 2 * LONG) -> dict[str, Any]:
    return {"type": "input_image", "image_url": "data:image/png;base64," + letter * size}


def video(letter: str, size: int = 2 * LONG) -> dict[str, Any]:
    return {"type": "input_video", "video_url": "data:video/mp4;base64," + letter * size}


def audio(letter: str, size: int = 2 * LONG) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": letter * size, "format": "mp3"}}


def user(*parts: dict[str, Any], text: str = "My name is Ada.") -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}, *parts]}]


def sent(emulator: Emulator) -> list[dict[str, Any]]:
    """The input of the last call."""
    body: list[dict[str, Any]] = emulator.calls()[-1]["body"]["input"]
    return body


def in_chat(part: dict[str, Any]) -> dict[str, Any]:
    """A part as Chat Completions has it."""
    match part["type"]:
        case "input_image":
            return {"type": "image_url", "image_url": {"url": part["image_url"]}}
        case "input_video":
            return {"type": "video_url", "video_url": {"url": part["video_url"]}}
    return part


PARTS = [image("A"), video("B"), audio("C")]


async def turns(service: Service, parts: list[dict[str, Any]]) -> Any:
    thread = service.thread()

    async def say(input_: Any) -> str:
        text: str = service.turn(thread, input_, model=HEARS)["output_text"]
        return text

    return await say(user(*parts)), say


async def responses(service: Service, parts: list[dict[str, Any]]) -> Any:
    first: Any = await service.openai.responses.create(model=HEARS, input=user(*parts))  # type: ignore[arg-type]

    async def say(input_: Any) -> str:
        text: str = (
            await service.openai.responses.create(model=HEARS, input=input_, previous_response_id=first.id)
        ).output_text
        return text

    return first.output_text, say


async def conversations(service: Service, parts: list[dict[str, Any]]) -> Any:
    made: Any = await service.openai.conversations.create(items=user(*parts))  # type: ignore[arg-type]

    async def say(input_: Any) -> str:
        text: str = (await service.openai.responses.create(model=HEARS, input=input_, conversation=made.id)).output_text
        return text

    return await say("Hello"), say


async def chat(service: Service, parts: list[dict[str, Any]]) -> Any:
    thread = service.thread()
    content = [{"type": "text", "text": "My name is Ada."}, *map(in_chat, parts)]

    async def say(input_: Any) -> str:
        text: str = service.turn(thread, input_, model=HEARS)["output_text"]
        return text

    return await say([{"role": "user", "content": content}]), say


@pytest.mark.parametrize("surface", [turns, responses, conversations, chat])
async def test_every_medium_reaches_the_model_and_is_sent_again_after_the_id_has_expired(
    service: Service, emulator: Emulator, surface: Any
) -> None:
    _, say = await surface(service, PARTS)
    assert sent(emulator)[0]["content"][1:] == PARTS
    emulator.advance(days=8)
    assert await say(ASK) == "Ada"
    assert sent(emulator)[0]["content"][1:] == PARTS


def test_a_model_is_sent_words_for_what_it_does_not_take_and_the_header_says_so(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    service.turn(thread, user(*PARTS), model=HEARS)
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": ASK, "model": SEES_VIDEO})
    assert answer.json()["output_text"] == "Ada"
    said = {"type": "input_text", "text": "[An audio recording, which this model cannot hear]"}
    assert sent(emulator)[0]["content"][1:] == [*PARTS[:2], said]
    assert answer.headers["Everthread-Adjusted"] == "history.audio_in_words=1"
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": ASK, "model": TEXT_ONLY})
    content = sent(emulator)[0]["content"]
    assert isinstance(content, str)
    assert content.startswith("My name is Ada.")
    assert all(media.UNSEEN[kind] in content for kind in ("image", "video", "audio"))
    counts = {"history.images_in_words=1", "history.videos_in_words=1", "history.audio_in_words=1"}
    assert set(answer.headers["Everthread-Adjusted"].split(", ")) == counts
    context = answer.json()["context"]
    assert [context[name] for name in media.COUNTED.values()] == [1, 1, 1, 0]
    service.turn(thread, ASK, model=HEARS)  # Nothing is lost: it is sent again to a model that takes it.
    assert sent(emulator)[0]["content"][1:] == PARTS


@pytest.mark.parametrize(
    ("part", "model"), [(audio("A"), SEES_VIDEO), (video("A"), TEXT_ONLY), (image("A"), TEXT_ONLY)]
)
def test_new_media_that_the_model_does_not_take_is_refused_before_the_call(
    service: Service, emulator: Emulator, part: dict[str, Any], model: str
) -> None:
    answer = service.http.post(f"/threads/{service.thread()}/turns", json={"input": user(part), "model": model})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_content")
    assert emulator.calls() == []


def test_a_file_goes_to_a_model_that_reads_files(
    service_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text('[families."qwen9-reader"]\nmodalities = ["text", "file"]\n')
    service = Service(env={**service_env, "EVERTHREAD_MODELS_FILE": str(models)})
    data = {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 2 * LONG}
    answer = service.http.post(
        "/responses", json={"model": "qwen9-reader", "input": user({"type": "input_file", **data})}
    )
    service.stop()
    assert answer.status_code == 400  # The provider's refusal: its own catalogue has no such model.
    assert sent(emulator)[0]["content"][1] == {"type": "input_file", **data}


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "input_video", "video_url": "file:///etc/passwd"}, ".video_url", "invalid_media"),
        ({"type": "input_video", "video_url": "data:image/png;base64,AAAA"}, ".video_url", "invalid_media"),
        ({"type": "input_video", "video_url": "https://" + "a" * 9000}, ".video_url", "invalid_media"),
        ({"type": "input_video"}, "", "unsupported_content"),
        (
            {"type": "input_audio", "input_audio": {"data": "a b", "format": "mp3"}},
            ".input_audio.data",
            "invalid_media",
        ),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}, ".input_audio.data", "invalid_media"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": 5}}, ".input_audio.format", "invalid_type"),
        ({"type": "input_file", "file_data": "AAAA", "file_url": "https://a.example/"}, "", "unsupported_content"),
        ({"type": "input_file", "file_url": "ftp://a.example/a.pdf"}, ".file_url", "invalid_media"),
        ({"type": "input_file", "file_data": "AAAA", "filename": "a" * 600}, ".filename", "invalid_type"),
        ({"type": "file", "file": {"file_id": "file_1"}}, "", "unsupported_content"),
    ],
)
def test_media_that_cannot_be_used_is_refused_at_the_door(
    service: Service, emulator: Emulator, part: dict[str, Any], param: str, code: str
) -> None:
    answer = service.http.post("/responses", json={"model": HEARS, "input": user(part)})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, f"input[0].content[1]{param}", code)
    assert emulator.calls() == []


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Any]]]:
    """A server that somebody who fetches a URL would connect to, and who did."""
    server = socket.create_server(("127.0.0.1", 0))
    connected: list[Any] = []

    def listen() -> None:
        while True:
            try:
                connected.append(server.accept())
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", connected
    server.close()


def test_a_url_of_media_is_neither_fetched_nor_loaded_by_a_page(
    service: Service, emulator: Emulator, listener: tuple[str, list[Any]]
) -> None:
    url, connected = listener
    thread = service.thread()
    parts: list[dict[str, Any]] = [
        {"type": "input_image", "image_url": f"{url}/a.png"},
        {"type": "input_video", "video_url": f"{url}/a.mp4"},
        {"type": "input_audio", "input_audio": {"data": f"{url}/a.mp3", "format": "mp3"}},
        video("A"),
        audio("B"),
    ]
    service.turn(thread, user(*parts), model=HEARS)
    emulator.forget()
    service.turn(thread, ASK, model=HEARS)
    assert sent(emulator)[0]["content"][1:] == parts
    with httpx2.Client(base_url=service.url) as browser:
        browser.post("/console/sign-in", data={"key": service.key})
        page = browser.get(f"/console/threads/{thread}")
    assert page.status_code == 200
    assert page.text.count(f'href="{url}/') == 3
    assert f'src="{url}' not in page.text
    assert not any(f"<{tag}" in page.text for tag in ("video", "audio", "source", "embed", "object", "iframe"))
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "media-src" not in policy
    markdown = service.http.get(f"/threads/{thread}/messages", params={"format": "markdown"}).text
    assert f"[video]({url}/a.mp4)" in markdown
    assert "*(a video, sent inline)*" in markdown
    assert connected == []
