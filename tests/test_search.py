"""Search of messages and titles, in any language."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from app.db import ids
from app.items import lexemes
from app.search.fragments import fragments
from app.search.matching import Matcher
from tests.projects import new_key
from tests.service import Service


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
        # New messages do not move the pages.
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


def test_imported_threads_are_found_too(search: Found) -> None:
    thread = search.thread(title="Old letters")
    search.say(thread, "Echo: parchment")
    record = search.call("GET", f"/threads/{thread}/export")
    search.call("DELETE", f"/threads/{thread}")
    assert search.call("POST", "/threads/import", json=record)["id"] == thread
    assert (len(search("parchment")), len(search("letters"))) == (2, 1)


def test_words_are_found_in_one_message_of_several(search: Found) -> None:
    said = [{"role": "user", "content": text} for text in ("quince and medlar", "loquat")]
    search.say(search.thread(), said)
    assert [len(search(q, role="user")) for q in ("medlar quince", "loquat", "quince loquat")] == [1, 1, 0]


def test_a_hit_is_paged_past_when_what_was_found_has_gone_since(search: Found) -> None:
    threads = [search.thread() for _ in range(5)]
    for thread in threads:
        search.say(thread, "Echo: kumquat")
    first = search.call("GET", "/search", params={"q": "kumquat", "limit": 4, "role": "user"})
    search.call("DELETE", f"/threads/{first['data'][-1]['thread_id']}")
    rest = search.call("GET", "/search", params={"q": "kumquat", "role": "user", "after": first["last_id"]})
    assert {hit["thread_id"] for hit in first["data"] + rest["data"]} == set(threads)


class Lexemes:
    """Lexemes that the database's functions make of texts."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._connection = self._loop.run_until_complete(asyncpg.connect(url))

    def __call__(self, statement: str, *arguments: Any) -> Any:
        return self._loop.run_until_complete(self._connection.fetchval(statement, *arguments))

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


@pytest.fixture(scope="module")
def sql(service_env: dict[str, str]) -> Iterator[Lexemes]:
    sql = Lexemes(service_env["DATABASE_URL"])
    yield sql
    sql.close()


alphabets = st.text("aB1 -./@_<&+éßςΣ中文図タผั हिЯж🎉⭐❤1#\ufe0f\u20e3\u200d🏽🇩🇪'\"\\:") | st.text(
    st.characters(exclude_categories=["Cs"], min_codepoint=1)
)


@given(alphabets, st.integers(0, 20), st.integers(1, 6), st.sampled_from(["", '"', "-"]), alphabets)
def test_the_index_has_whatever_the_text_has(
    sql: Lexemes, text: str, start: int, length: int, mark: str, more: str
) -> None:
    part = text[start : start + length].strip()
    for asked in (f"{mark}{part}{mark.strip('-')} {text[:3]}", f"{part} -{more}", more):
        terms = lexemes.terms(asked)
        wanted = [term for term in terms if not term.excluded]
        if not wanted or Matcher(terms).rank(text) is None:
            continue
        project, data = uuid4(), {"role": "user", "content": text}
        query = lexemes.tsquery(wanted, project, ["user", "assistant"])
        found = "SELECT message_lexemes_v1($1, $4, $2::text::json) @@ $3::text::tsquery"
        turn = ids.new_id(1)
        assert sql(found, project, json.dumps(data), query, turn)
        times = [turn.hex[:6], turn.hex[:5], turn.hex[:4]]
        for time in times:
            timed = lexemes.tsquery(wanted, project, ["user", "assistant"], [time, "0" * len(time)])
            assert sql(found, project, json.dumps(data), timed, turn)
            assert not sql(found, project, json.dumps(data), timed, uuid4())
        assert not sql(found, uuid4(), json.dumps(data), query, turn)
        assert not sql(found, project, json.dumps(data), lexemes.tsquery(wanted, project, ["title"]), turn)


@given(alphabets)
def test_every_word_and_every_pair_of_characters_of_a_text_is_found_in_it(text: str) -> None:
    for run in lexemes.runs(lexemes.folded(text)):
        for part in [run.text] if run.spaced else [run.text[i : i + 2] for i in range(len(run.text))]:
            for asked in (part, f'"{part}"'):
                terms = lexemes.terms(asked)
                assert Matcher(terms).rank(text) is not None


@pytest.mark.parametrize(
    "content",
    [
        None, 1, "", [], {}, [None, 1, "x", [], {"text": 5}, {"text": None, "refusal": ["x"]}], {"text": "x"},
        [{"type": "output_text", "text": "x" * 3000}, {"refusal": "no"}], "\x7f" * 9, "a" * 250_000, "中" * 250_000,
        "".join(chr(0x20000 + n) for n in range(40_000)) * 3,
        " ".join(f"{n:x}🎉" for n in range(60_000)),
        " ".join(f"{n:x}" for n in range(60_000)),
    ],
)  # fmt: skip
def test_a_message_is_kept_whatever_is_in_it(sql: Lexemes, content: Any) -> None:
    roles: list[Any] = ["user", "assistant", "system", 5, None, [], {}]
    for role in roles:
        said = json.dumps({"type": "message", "role": role, "content": content})
        found = sql("SELECT length(message_lexemes_v1($1, $1, $2::text::json))", uuid4(), said)
        assert (found is None) == (role not in ("user", "assistant"))


@given(st.text(max_size=200), st.text(max_size=5))
def test_highlights_lie_inside_their_fragment_and_html_is_escaped(text: str, asked: str) -> None:
    for fragment in fragments(text, [run for term in lexemes.terms(asked) for run in term.runs]):
        assert fragment["text"].strip("…") in text
        for start, end in fragment["highlights"]:
            assert 0 <= start < end <= len(fragment["text"])
        bare = fragment["html"].replace("<mark>", "").replace("</mark>", "")
        assert "<" not in bare


def test_the_longest_text_is_searched(search: Found) -> None:
    thread = search.thread()
    text = " ".join(f"{n:x}{'é' * 40}" for n in range(15_000))
    assert len(text.encode()) < 1_500_000
    items = [{"type": "message", "role": "user", "content": text[:450_000]}]
    added = search.call("POST", f"/conversations/{thread.replace('thread_', 'conv_')}/items", json={"items": items})
    assert "data" in added, added
    assert len(search("0" + "é" * 40)) == 1


FORMS = [
    ("⭐", "⭐\ufe0f"), ("☎", "☎\ufe0f"), ("✅", "✅\ufe0f"), ("©", "©\ufe0f"), ("↗", "↗\ufe0f"),
    ("1\u20e3", "1\ufe0f\u20e3"), ("#\u20e3", "#\ufe0f\u20e3"), ("✌🏽", "✌\ufe0f🏽"), ("❤\u200d🔥", "❤\ufe0f\u200d🔥"),
    ("🏳\u200d🌈", "🏳\ufe0f\u200d🌈"),
    ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧\ufe0e"), ("🇨🇳", "🇨🇳\ufe0f"), ("🎉", "🎉\ufe0e"), ("😀", "😀\ufe0f"),
]  # fmt: skip


@pytest.mark.parametrize("around", ["Rated {} today", "hello{}world", "今天{}很好"])
def test_emoji_are_found_in_either_form_and_marked_whole(search: Found, around: str) -> None:
    contents = [around.format(form) for forms in FORMS for form in forms]
    items = [{"type": "message", "role": "user", "content": said} for said in contents]
    for said, item in zip(contents, items, strict=True):
        thread = search.thread(messages=[item], title=said)
        assert thread
    for forms in FORMS:
        if around == "hello{}world" and forms[0][0] in "1#":
            continue  # A keycap between letters is a part of a word.
        for asked in forms:
            for role in ("user", "title"):
                hits = search(asked, role=role)
                marked = [
                    f["text"][start:end] for hit in hits for f in hit["fragments"] for start, end in f["highlights"]
                ]
                assert sorted(marked) == sorted(forms), (asked, role)


def test_invisible_characters_alone_are_no_word(search: Found) -> None:
    search.thread(messages=[{"role": "user", "content": "plain \ufe0f \u200d \u2060 \U000e0067 \u3164 text"}])
    for asked in ("\ufe0f", "\u200d", "\U000e0067", "\u3164", '"\ufe0f\u200d"'):
        answer = search.call("GET", "/search", params={"q": asked})
        assert answer["error"]["param"] == "q", asked


signs = st.lists(
    st.sampled_from([
        "⭐", "❤", "\ufe0f", "\ufe0e", "\u200d", "\u20e3", "👍", "🏽", "👩", "👧", "🇩", "🇪", "🏴",
        "\U000e0067", "\U000e007f", "1", "#",
        "a", "é", "e\u0301", "\u0301", "中", "文", "ﾀﾞ", "กำ", "नि", "한",
        "\u1112\u1161\u11ab", "\u2060", "\u00ad", "\u3164", " ", "\r\n",
        "-", "x" * 50, " " * 70, "的" * 300,
    ])
)  # fmt: skip
CLUSTER = regex.compile(r"\X")


@given(signs.map("".join), signs.map(lambda found: "".join(found[:4])), st.integers(0, 30), st.integers(1, 4))
def test_a_mark_covers_whole_characters_and_never_only_invisible_ones(
    text: str, other: str, start: int, length: int
) -> None:
    for asked in (other, text[start : start + length]):
        terms = lexemes.terms(asked)
        for fragment in fragments(text, [run for term in terms for run in term.runs]):
            said = fragment["text"].strip("…")
            edges = {found.start() for found in CLUSTER.finditer(text)} | {len(text)}
            begin = text.index(said) - (len(fragment["text"]) - len(fragment["text"].lstrip("…")))
            end = 0
            for mark_start, mark_end in fragment["highlights"]:
                assert mark_start >= end
                end = mark_end
                assert {begin + mark_start, begin + mark_end} <= edges
                marked = fragment["text"][mark_start:mark_end]
                assert regex.search(r"[^\p{Default_Ignorable_Code_Point}\p{Cf}\p{Zs}]", marked), ascii(marked)


@given(signs.map("".join))
def test_a_variation_selector_changes_nothing_that_is_found(sql: Lexemes, text: str) -> None:
    bare = text.replace("\ufe0f", "").replace("\ufe0e", "")
    lexemes_of = "SELECT foreign_lexemes_v1($1)::text"
    assert sql(lexemes_of, text) == sql(lexemes_of, bare)
    assert [term.runs for term in lexemes.terms(text)] == [term.runs for term in lexemes.terms(bare)]
