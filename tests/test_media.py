"""Images, videos, audio and files: sent to the models that take them, stored once, and gone with their last item."""

import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest

from app.items import media
from tests.encrypted import Encrypted
from tests.projects import Project
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant

ASK = "What is my name?"
SEES_VIDEO = "qwen3.7-plus"
HEARS = "qwen3.8-omni-flash"
TEXT_ONLY = "qwen-flash"

LONG = media.LARGE


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
        ({"type": "input_file", "file_data": "file:///etc/passwd"}, ".file_data", "invalid_media"),
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


def turn(project: Project, thread: str, input_: Any, model: str = SEES_VIDEO) -> dict[str, Any]:
    answer = project.http.post(f"/threads/{thread}/turns", json={"input": input_, "model": model})
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def stored(project: Project) -> list[str]:
    """The media of a project."""
    return [row["data"] for row in project.sql("SELECT data FROM media WHERE project_id = $1 ORDER BY id")]


def copies(project: Project, letter: str) -> int:
    """Return the number of rows, in all tables of a project, that hold a medium."""
    tables = ("items", "calls", "pieces", "media", "turns", "compactions")
    return sum(
        letter * 2 * LONG in row["said"]
        for table in tables
        for row in project.sql(f"SELECT t::text AS said FROM {table} t WHERE project_id = $1")
    )


def test_a_large_medium_is_stored_once_however_often_it_is_said_and_sent(project: Project, emulator: Emulator) -> None:
    thread = project.call("POST", "/threads")["id"]
    said = [turn(project, thread, user(image("Q"), video("R")))["id"] for _ in range(3)]
    # Another model each time: the history is sent whole.
    said += [turn(project, thread, ASK, model)["id"] for model in ("qwen3.6-plus", SEES_VIDEO)]
    # In another form than it is stored in: the item has a field that is not sent.
    named = [{**user(image("Q"))[0], "pinned": True}]
    said.append(turn(project, thread, named)["id"])
    assert stored(project) == [image("Q")["image_url"], video("R")["video_url"]]
    assert (copies(project, "Q"), copies(project, "R")) == (1, 1)
    for turn_id, call in zip(said, emulator.calls(), strict=True):
        (kept,) = project.call("GET", f"/threads/{thread}/turns/{turn_id}/calls")["data"]
        assert orjson.dumps(kept["body"]) == orjson.dumps(call["body"])
    shown = project.call("GET", f"/threads/{thread}/turns/{said[0]}")["input"][0]["content"]
    assert shown[1:] == [image("Q"), video("R")]
    messages = project.call("GET", f"/threads/{thread}/messages", params={"format": "chat"})["data"]
    assert messages[0]["content"][1:] == [in_chat(image("Q")), in_chat(video("R"))]
    assert project.verify().problems == []


def test_media_of_tools_are_stored_apart_too(project: Project, emulator: Emulator) -> None:
    thread = project.call("POST", "/threads")["id"]
    screenshot = {"type": "computer_screenshot", "image_url": image("S")["image_url"]}
    given: list[dict[str, Any]] = [
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "a",
            "output": [image("Q"), {"type": "input_text", "text": "Seen"}],
        },
        {"type": "computer_call", "call_id": "b", "action": {"type": "screenshot"}},
        {"type": "computer_call_output", "call_id": "b", "output": screenshot},
        *user(),
    ]
    made = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "R" * 2 * LONG}
    emulator.fault("output", output=[made])
    first = turn(project, thread, given)["id"]
    assert sorted(stored(project)) == sorted([image("Q")["image_url"], image("S")["image_url"], made["result"]])
    assert [copies(project, letter) for letter in "QRS"] == [1, 1, 1]
    shown = project.call("GET", f"/threads/{thread}/turns/{first}")
    assert [item["output"] for item in shown["input"][1:4:2]] == [given[1]["output"], screenshot]
    assert shown["output"][0]["result"] == made["result"]
    emulator.forget()
    assert turn(project, thread, ASK)["output_text"] == "Ada"
    outputs = [item["output"] for item in sent(emulator) if item["type"] == "function_call_output"]
    assert outputs == [given[1]["output"], [image("S")]]
    assert project.verify().problems == []


def test_small_media_and_urls_stay_with_their_items(project: Project) -> None:
    thread = project.call("POST", "/threads")["id"]
    url = {"type": "input_image", "image_url": "https://media.example/cat.png"}
    turn(project, thread, user(image("A", 100), url))
    assert stored(project) == []


def test_a_medium_goes_with_the_last_item_that_holds_it(project: Project, emulator: Emulator) -> None:
    thread = project.call("POST", "/threads")["id"]
    conversation = thread.replace("thread_", "conv_")
    first, second = (turn(project, thread, user(image("Q"))) for _ in range(2))
    assert len(stored(project)) == 1
    item = project.call("GET", f"/threads/{thread}/turns/{first['id']}")["input"][0]["id"]
    assert project.http.delete(f"/conversations/{conversation}/items/{item}").status_code == 200
    assert len(stored(project)) == 1
    turn(project, thread, ASK)
    assert orjson.dumps(sent(emulator)).count(b'"input_image"') == 1  # Of the second item alone.
    assert project.http.delete(f"/responses/{second['id'].replace('turn_', 'resp_')}").status_code == 200
    assert stored(project) == []
    assert copies(project, "Q") == 0
    turn(project, thread, ASK)
    assert b"input_image" not in orjson.dumps(sent(emulator))
    assert project.verify().problems == []


def test_media_outlive_the_thread_that_they_were_sent_in_as_long_as_a_fork_has_them(
    project: Project, emulator: Emulator
) -> None:
    thread = project.call("POST", "/threads")["id"]
    turn(project, thread, user(image("Q")))
    forks = [project.call("POST", f"/threads/{thread}/fork")["id"] for _ in range(2)]
    turn(project, forks[0], user(image("S"), text="And this?"))
    turn(project, thread, user(image("T"), text="Only here."))
    project.call("DELETE", f"/threads/{thread}")
    assert sorted(stored(project)) == [image(letter)["image_url"] for letter in "QS"]
    for fork in forks:
        emulator.forget()
        assert turn(project, fork, ASK)["output_text"] == "Ada"
        assert sent(emulator)[0]["content"][1] == image("Q")
    (call,) = project.call(
        "GET", f"/threads/{forks[0]}/turns/{turn(project, forks[0], ASK, 'qwen3.6-plus')['id']}/calls"
    )["data"]
    assert call["body"] == emulator.calls()[-1]["body"]
    assert project.verify().problems == []
    # Both hold the first one, and go at the same moment.
    with ThreadPoolExecutor() as pool:
        gone = list(pool.map(lambda fork: project.http.delete(f"/threads/{fork}").status_code, forks))
    assert gone == [200, 200]
    assert stored(project) == []


def test_a_purge_of_a_user_takes_their_media(project: Project) -> None:
    threads = [project.call("POST", "/threads", json={"user": name})["id"] for name in ("ann", "bob")]
    for thread in threads:
        turn(project, thread, user(image("Q")))
    assert len(stored(project)) == 2  # Once for each thread.
    purge = project.call("DELETE", "/users/ann/data")["id"]
    eventually(lambda: project.call("GET", f"/purges/{purge}")["status"] == "completed")
    assert len(stored(project)) == 1
    assert project.call("GET", f"/threads/{threads[1]}/turns")["data"][0]["input"][0]["content"][1] == image("Q")


def test_media_count_as_stored_bytes_of_their_project_and_user(service: Service, emulator: Emulator) -> None:
    for whose in ("limits", "user_limits"):
        tenant = Tenant(service)
        thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
        picture = {"type": "input_image", "image_url": f"data:image/png;base64,{secrets.token_hex(4000)}"}
        said = tenant.http.post(f"/threads/{thread}/turns", json={"input": user(picture), "model": SEES_VIDEO})
        assert said.status_code == 200
        tenant.settings(**{whose: {"stored_bytes": 4000}})
        answer = tenant.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "user": "ann"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE item_media SET media_id = (SELECT id FROM media WHERE project_id = $1 AND id <> media_id) "
        "WHERE project_id = $1",
        "UPDATE media SET data = replace(data, 'QQ', 'QR') WHERE project_id = $1",
        "DELETE FROM item_media WHERE project_id = $1",
        "UPDATE pieces SET media_id = (SELECT id FROM media m WHERE project_id = $1 AND m.id <> pieces.media_id) "
        "WHERE project_id = $1 AND media_id IS NOT NULL",
    ],
)
def test_the_trail_tells_of_a_medium_that_was_changed_or_put_elsewhere(project: Project, change: str) -> None:
    thread = project.call("POST", "/threads")["id"]
    turn(project, thread, user(image("Q"), image("R")))
    turn(project, thread, ASK, "qwen3.6-plus")
    assert project.verify().problems == []
    project.sql(change)
    assert project.verify().problems


def test_equal_media_of_two_projects_have_nothing_in_common(
    project: Project, service: Service, service_env: dict[str, str], tmp_path: Path
) -> None:
    other = Project(service, service_env, tmp_path)
    digests: list[set[bytes]] = []
    for each in (project, other):
        turn(each, each.call("POST", "/threads")["id"], user(image("Q")))
        digests.append({row["digest"] for row in each.sql("SELECT digest FROM media WHERE project_id = $1")})
    other.http.close()
    assert len(digests[0]) == 1
    assert digests[0] != digests[1]


def test_an_export_with_media_is_imported_without_a_loss(
    project: Project, service: Service, service_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    thread = project.call("POST", "/threads")["id"]
    for _ in range(2):
        turn(project, thread, user(*PARTS), HEARS)
    exported = project.call("GET", f"/threads/{thread}/export")
    other = Project(service, service_env, tmp_path)
    assert other.http.post("/threads/import", json=exported).status_code == 201
    assert len(stored(other)) == len(PARTS)
    again = other.call("GET", f"/threads/{thread}/export")
    assert [each["items"] for each in again["turns"]] == [each["items"] for each in exported["turns"]]
    assert turn(other, thread, ASK, HEARS)["output_text"] == "Ada"
    assert sent(emulator)[0]["content"][1:] == PARTS
    assert other.verify().problems == []
    other.http.close()


def test_nothing_that_a_client_writes_is_taken_for_a_reference(
    project: Project, service: Service, service_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    """Whoever knows the id and the digest of another's medium, and imports an item as it is stored, gets nothing."""
    thread = project.call("POST", "/threads")["id"]
    turn(project, thread, user(image("Q")))
    (row,) = project.sql("SELECT id::text, encode(digest, 'hex') AS digest FROM media WHERE project_id = $1")
    other = Project(service, service_env, tmp_path)
    for mine in (project, other):  # In its own project, from another thread, too.
        made = mine.call("POST", "/threads", json={"messages": user()})
        exported = mine.call("GET", f"/threads/{made['id']}/export")
        empty = [{"type": "input_image", "image_url": ""}]
        refused = mine.http.post(f"/threads/{made['id']}/turns", json={"input": user(*empty)})
        assert refused.status_code == 400
        mine.call("DELETE", f"/threads/{made['id']}")
        parts = [
            {"type": "input_image", "image_url": url}
            for url in ("", row["id"], row["digest"], f"media:{row['id']}", f"data:image/png;digest={row['digest']},")
        ]
        data = [user(*parts)[0], {**user(*parts)[0], "media_id": row["id"]}]
        told = {
            **exported["turns"][0],
            "id": f"turn_{uuid4().hex[:-3]}{made['id'][-3:]}",
            "items": [{"origin": "input", "item_id": f"msg_{uuid4().hex}", "data": each} for each in data],
        }
        answer = mine.http.post("/threads/import", json={**exported, "turns": [told], "head_id": told["id"]})
        assert answer.status_code == 201, answer.text
        read = mine.call("GET", f"/threads/{made['id']}/export")
        assert "Q" * LONG not in orjson.dumps(read).decode()
        turn(mine, made["id"], ASK)
        assert "Q" * LONG not in orjson.dumps(sent(emulator)).decode()
        assert [media.UNUSABLE["image"] in orjson.dumps(item).decode() for item in sent(emulator)[:2]] == [True, True]
    other.http.close()


def test_media_of_an_encrypted_project_are_sealed_and_move_with_a_fork(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    project = Encrypted(fresh_env, tmp_path)
    thread = project.post("/threads")["id"]
    first = project.post(f"/threads/{thread}/turns", input=user(image("Q")), model=SEES_VIDEO)
    project.post(f"/threads/{thread}/turns", input=user(image("Q")), model="qwen3.6-plus")
    fork = project.post(f"/threads/{thread}/fork")["id"]
    assert len(project.rows()["media"]) == 1
    assert not any("Q" * 100 in row for rows in project.rows().values() for row in rows)
    assert project.http.delete(f"/threads/{thread}").status_code == 200
    assert project.get(f"/threads/{fork}/turns/{first['id']}")["input"][0]["content"][1] == image("Q")
    said = project.turn(fork, ASK, model=SEES_VIDEO)
    assert said["output_text"] == "Ada"
    assert sent(emulator)[0]["content"][1] == image("Q")
    (call,) = project.get(f"/threads/{fork}/turns/{said['id']}/calls")["data"]
    assert call["body"]["input"] == sent(emulator)
    assert project.http.delete(f"/threads/{fork}").status_code == 200
    assert project.rows()["media"] == []
    # One that lay open is sealed where it lies.
    later = project.beside(encrypted=False)
    thread = later.post("/threads")["id"]
    later.post(f"/threads/{thread}/turns", input=user(image("Q")), model=SEES_VIDEO)
    assert any("Q" * LONG in row for row in later.rows()["media"])
    later.command("projects", "encrypt", later.name)
    assert not any("Q" * 100 in row for rows in later.rows().values() for row in rows)
    emulator.forget()
    assert later.turn(thread, ASK, model=SEES_VIDEO)["output_text"] == "Ada"
    assert sent(emulator)[0]["content"][1] == image("Q")
    project.service.stop()
