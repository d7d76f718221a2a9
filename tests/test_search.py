"""Finding what was said, in any language."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.search import lexemes
from app.search.fragments import fragments
from tests.projects import new_key
from tests.service import Process, Service


class Found:
    """A search in a project that nobody else talks in."""

    def __init__(self, service: Service, env: dict[str, str]) -> None:
        self._service = service
        self.headers = {"Authorization": f"Bearer {new_key(env['DATABASE_URL'], uuid4().hex)}"}

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        answer = self._service.http.request(method, path, headers=self.headers, **kwargs)
        return answer.json()

    def thread(self, **fields: Any) -> str:
        thread_id: str = self.call("POST", "/threads", json=fields)["id"]
        return thread_id

    def say(self, thread: str, text: Any) -> dict[str, Any]:
        turn: dict[str, Any] = self.call("POST", f"/threads/{thread}/turns", json={"input": text})
        assert turn["status"] == "completed"
        return turn

    def __call__(self, q: str, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/search", params={"q": q, **params})["data"]
        return found


@pytest.fixture
def search(service: Service, service_env: dict[str, str]) -> Found:
    return Found(service, service_env)


@pytest.mark.parametrize(
    ("said", "asked", "marked"),
    [
        ("The quick brown fox", "FOX", ["fox"]),
        ("The quick brown foxes jump", "fox", ["foxes"]),
        ("Un café à Zürich", "cafe zurich", ["café", "Zürich"]),
        ("我昨天去了上海的图书馆借书", "图书馆", ["图书馆"]),
        ("我昨天去了上海的图书馆借书", "书", ["书", "书"]),
        ("東京タワーに登りました", "タワー", ["タワー"]),
        ("ﾀﾜｰは高い", "タワー", ["ﾀﾜｰ"]),
        ("서울에서 김치를 먹었습니다", "김치", ["김치"]),
        ("ฉันชอบกินผัดไทย", "ผัดไทย", ["ผัดไทย"]),
        ("हिन्दी में बात करो", "हिन्दी", ["हिन्दी"]),
        ("Ελλάδα και Κύπρος", "ελλαδα", ["Ελλάδα"]),
        ("Straße nach Süden", "strasse", ["Straße"]),
        ("Order 4711-B shipped", "4711", ["4711"]),
    ],
)
def test_words_are_found_and_marked_in_every_script(search: Found, said: str, asked: str, marked: list[str]) -> None:
    thread = search.thread()
    turn = search.say(thread, f"Echo: {said}")
    search.say(thread, "Something else entirely")
    hits = search(asked)
    assert {(hit["turn_id"], hit["role"]) for hit in hits} == {(turn["id"], "user"), (turn["id"], "assistant")}
    for hit in hits:
        found = [f["text"][start:end] for f in hit["fragments"] for start, end in f["highlights"]]
        assert found == marked
        assert all(f"<mark>{mark}</mark>" in "".join(f["html"] for f in hit["fragments"]) for mark in marked)


def test_neighbouring_characters_are_found_in_their_order_only(search: Found) -> None:
    search.say(search.thread(), "Echo: 北京大学")
    assert len(search("大学")) == 2
    assert search("学大") == []
    assert search("京大学院") == []


def test_phrases_exclusions_and_several_words(search: Found) -> None:
    thread = search.thread()
    both = search.say(thread, "Echo: red apples and green pears")["id"]
    one = search.say(thread, "Echo: green apples")["id"]

    def turns(q: str) -> set[str]:
        return {hit["turn_id"] for hit in search(q, role="assistant")}

    assert turns("apples green") == {both, one}
    assert turns('"green apples"') == {one}
    assert turns("apples -pears") == {one}
    assert turns("apples bananas") == set()


def test_hits_are_ranked_filtered_and_paged(search: Found) -> None:
    ann, bob = search.thread(user="ann", title="Gardening"), search.thread(user="bob", title="Roses are red")
    once = search.say(ann, "Echo: a rose among many other words that are no flowers at all")["id"]
    often = search.say(ann, "Echo: rose rose rose")["id"]
    last = search.say(bob, "Echo: rose")["id"]
    ranked = search("rose", role="assistant", user="ann")
    assert [hit["turn_id"] for hit in ranked] == [often, once]
    assert ranked[0]["score"] > ranked[1]["score"]
    assert [hit["turn_id"] for hit in search("rose", role="user", user="bob")] == [last]
    assert [hit["turn_id"] for hit in search("rose", role="user", thread=bob)] == [last]
    (title,) = search("roses", role="title")
    assert (title["thread_id"], title["turn_id"], title["thread_title"]) == (bob, None, "Roses are red")
    assert title["fragments"] == [
        {"text": "Roses are red", "highlights": [[0, 5]], "html": "<mark>Roses</mark> are red"}
    ]
    assert search("rose", until=1000) == []
    assert search("rose", since=4_000_000_000) == []
    everything = [hit["id"].partition("_")[0] and (hit["turn_id"], hit["role"]) for hit in search("rose")]
    assert len(everything) == 7
    paged: list[tuple[str, str]] = []
    after: dict[str, str] = {}
    while True:
        page = search.call("GET", "/search", params={"q": "rose", "limit": 2, **after})
        paged += [(hit["turn_id"], hit["role"]) for hit in page["data"]]
        # What is said meanwhile does not move the pages.
        search.say(ann, "Echo: rose rose")
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert paged == everything
    for params, param in (({"q": "..."}, "q"), ({}, "q"), ({"q": "a", "role": "x"}, "role"),
                          ({"q": "a", "after": "hit_x"}, "after"), ({"q": "a", "thread": "x"}, "thread")):  # fmt: skip
        assert search.call("GET", "/search", params=params)["error"]["param"] == param


def test_what_is_deleted_or_changed_is_not_found_any_more(search: Found) -> None:
    thread = search.thread(title="Secret plans")
    turn = search.say(thread, [{"role": "user", "content": "Echo: marmalade"}])
    conversation = thread.replace("thread_", "conv_")
    items = [{"type": "message", "role": "user", "content": text} for text in ("tangerine", "clementine")]
    added = search.call("POST", f"/conversations/{conversation}/items", json={"items": items})["data"]
    assert len(search("marmalade")) == 2
    search.call("DELETE", f"/conversations/{conversation}/items/{added[0]['id']}")
    assert (search("tangerine"), len(search("clementine"))) == ([], 1)
    search.call("DELETE", f"/responses/{turn['id'].replace('turn_', 'resp_')}")
    assert search("marmalade") == []
    search.call("PATCH", f"/threads/{thread}", json={"title": "Open plans"})
    assert (search("secret"), len(search("open plans"))) == ([], 1)
    search.call("DELETE", f"/threads/{thread}")
    assert (search("clementine"), search("plans")) == ([], [])


def test_a_project_finds_nothing_of_another(service: Service, search: Found) -> None:
    word = f"w{uuid4().hex}"
    service.turn(service.thread(title=word), f"Echo: {word}")
    assert search(word) == []
    assert len(service.http.get("/search", params={"q": word}).json()["data"]) == 3


def test_imported_threads_and_older_turns_are_found_too(search: Found, service_env: dict[str, str]) -> None:
    thread = search.thread(title="Old letters")
    search.say(thread, "Echo: parchment")
    record = search.call("GET", f"/threads/{thread}/export")
    search.call("DELETE", f"/threads/{thread}")
    assert search.call("POST", "/threads/import", json=record)["id"] == thread
    assert (len(search("parchment")), len(search("letters"))) == (2, 1)

    async def forget() -> None:
        connection = await asyncpg.connect(service_env["DATABASE_URL"])
        await connection.execute("DELETE FROM texts WHERE turn_id = $1", record["turns"][0]["id"].removeprefix("turn_"))
        await connection.execute("UPDATE threads SET title_document = NULL WHERE title = 'Old letters'")
        await connection.close()

    asyncio.run(forget())
    assert (search("parchment"), search("letters")) == ([], [])
    Process("reindex", env=service_env).wait_for("were indexed")
    assert (len(search("parchment")), len(search("letters"))) == (2, 1)


@given(st.text(max_size=300))
def test_every_word_and_every_pair_of_characters_is_in_the_document_at_its_place(text: str) -> None:
    document = lexemes.document(text)
    expected: dict[str, list[int]] = {}
    place = 0
    for run in lexemes.runs(text):
        for lexeme in [run.text] if run.spaced else [run.text[i : i + 2] for i in range(len(run.text))]:
            place += 1
            expected.setdefault(lexeme[:100], []).append(place)
    shown = [f"'{lexeme}':{','.join(map(str, places))}" for lexeme, places in expected.items()]
    assert document == (" ".join(shown) or None)


@given(st.text(max_size=200), st.text(max_size=5))
def test_highlights_lie_inside_their_fragment_and_html_is_escaped(text: str, asked: str) -> None:
    for fragment in fragments(text, lexemes.asked_runs(asked)):
        assert fragment["text"].strip("…") in text
        for start, end in fragment["highlights"]:
            assert 0 <= start < end <= len(fragment["text"])
        bare = fragment["html"].replace("<mark>", "").replace("</mark>", "")
        assert "<" not in bare


def test_the_longest_text_fits_a_tsvector(search: Found) -> None:
    thread = search.thread()
    text = " ".join(f"{n:x}{'é' * 40}" for n in range(15_000))
    assert len(text.encode()) < 1_500_000
    items = [{"type": "message", "role": "user", "content": text[:450_000]}]
    added = search.call("POST", f"/conversations/{thread.replace('thread_', 'conv_')}/items", json={"items": items})
    assert "data" in added, added
    assert len(search("0" + "é" * 40)) == 1
