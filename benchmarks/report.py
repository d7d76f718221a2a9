"""The report of a run, in Markdown: the figures, and which of the targets they meet."""

from statistics import median
from typing import Any

Results = dict[str, Any]
Row = dict[str, Any]

CAPTIONS = {
    "cpu_ms": "CPU ms",
    "of_yardstick": "of aiohttp's",
    "busiest_cpu_ms": "busiest worker's CPU ms",
    "stores_cpu_ms": "Postgres + Redis CPU ms",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "per_second": "per second",
    "cpu_us_per_delta": "CPU µs per delta",
    "first_delta_ms": "first delta, ms",
    "deltas": "deltas heard",
    "cpu_ms_per_turn": "CPU ms per turn",
    "client_sends_kb": "client sends, KB",
    "p50_first_ten_ms": "p50 of turns 1–10, ms",
    "p50_last_ten_ms": "p50 of turns 41–50, ms",
    "kib_per_stream": "KiB per stream",
    "missed_deltas": "missed deltas",
}


def report(results: Results) -> str:
    traffic, scale, machine = results["traffic"], results["scale"], results["machine"]
    parts = [
        "# Benchmarks",
        "",
        f"Made by `python -m benchmarks` on {machine['date']}: {machine['cpus']} cores ({machine['model']}), "
        f"Python {machine['python']}, everything on loopback, all targets on the same machine in the same run. "
        "Machines like this one are shared: read ratios, not absolute times. Each figure is the median of the "
        "rounds, in which the targets take turns.",
        "",
        "## Targets",
        "",
        *_targets(results),
        "",
        "## What is compared",
        "",
        "- **direct**: the provider's stand-in itself, a bare asyncio protocol with canned bytes "
        "(`benchmarks/stub.py`). Its CPU, in the tables below, is how it was checked that it costs little.",
        "- **aiohttp**: a pass-through on aiohttp, server and client (uvloop), storing nothing: the yardstick "
        "(`benchmarks/peers/passthrough_aiohttp.py`). *of aiohttp's* is the CPU as a multiple of its CPU, the median "
        "of the rounds' ratios.",
        "- **httpx**: a pass-through of Starlette and httpx under uvicorn (uvloop, httptools), storing nothing "
        "(`benchmarks/peers/passthrough_httpx.py`).",
        "- **everthread**: one worker. A turn is chained on a thread of its own, durable in Postgres before the "
        "provider is called and again before the client is answered (two commits, synced to disk), with its audit "
        "records, search documents and Redis.",
        "- **litellm**: LiteLLM's proxy on `/v1/responses`, one worker, no database.",
        "- **langgraph**: LangGraph's development server, which keeps its threads in memory (the one that keeps them "
        "in Postgres needs a licence and Docker). A turn is a run of a graph with one node, which asks the provider "
        "(`benchmarks/peers/langgraph_agent.py`). Plain turns only: its streams are not the provider's events.",
        "- **ogx**: OGX (formerly Llama Stack), one process, which keeps responses in SQLite and asks its provider for "
        "chat completions (`benchmarks/peers/ogx.yaml`). It needs Python 3.12. Plain turns only: its streams have a "
        "delta more than the provider's.",
        "",
        "CPU is user + system time of the server's whole process tree. Postgres and Redis are counted apart.",
        "Streams are begun evenly spread, as they would be by clients that know nothing of each other.",
        *[f"- *{name}* was skipped: {why}" for name, why in traffic["skipped"].items()],
        "",
        "Not compared: Letta, whose last server on PyPI (0.16.8; later releases are an agent for the terminal) puts "
        "a prompt and tools of its own around each message; Aegra, whose server (0.6.0) needs the extension uuid-ossp, "
        "which the embedded Postgres does not have; open-responses-server (0.4.1), which passes on nothing of an input "
        "that is a text, and answers streams only; the package `open-responses`, which starts containers.",
        "",
        "![CPU of a plain turn](plots/plain.svg)",
        "",
        "![CPU of a stream](plots/stream.svg)",
        "",
    ]
    for title in ("plain", "stream", "conversation", "open streams", "workers"):
        parts += _tables(traffic[title])
    if "store" in results:
        parts += [
            "## The store",
            "",
            "CPU of Postgres's processes for clients. *The floor* is two durable commits with a turn, two items and "
            "two audit rows in bare tables (`benchmarks/floor.py`), made beside the service's turns and as often. "
            "*Bytes* are those of a turn of 2,000 characters in and 2,800 out, indexes included.",
            "",
        ]
        for title in ("floor", "new database", "bytes", "forgetting"):
            parts += [f"### {title.capitalize()}", "", *_table(results["store"][title]), ""]
    if "memory" in results:
        parts += [
            "## Memory",
            "",
            f"Made on {results['memory']['made on']}. *Counting* is of 4,800 characters. *Rebuilding* is the service's "
            "CPU for a turn whose history is sent again: whole, and from a compaction on, with twenty turns behind it. "
            "*Cache* is what the input costs with the provider's session cache, off being 1, by how many turns come "
            "within its five minutes. [docs/memory.md](../docs/memory.md) has the plots.",
            "",
        ]
        for title in ("counting", "rebuilding", "cache"):
            parts += [f"### {title.capitalize()}", "", *_table(results["memory"][title]), ""]
    if "tenants" in results:
        parts += [
            "## Tenants",
            "",
            f"Made on {results['tenants']['made on']}. What limits, an account of its own, a user's token and"
            " encryption at rest add to a plain turn: the ratio is to the same turn without them, in the same round.",
            "",
            *_table(results["tenants"]["turns"]),
            "",
        ]
    if "growth" in results:
        parts += _growth(results["growth"])
    parts += ["## Cost against size", ""]
    for title, plot in (
        ("threads", "threads"), ("long threads", "long-threads"), ("search", "search"), ("audit", "audit"),
        ("cold start", None),
    ):  # fmt: skip
        parts += [f"### {title.capitalize()}", "", *_table(scale[title]), ""]
        if plot is not None:
            parts += [f"![{title}](plots/{plot}.svg)", ""]
    return "\n".join(parts)


def _growth(growth: Results) -> list[str]:
    """The cost of each route against the size of its project."""
    rows = [{k: v for k, v in row.items() if k != "above"} for row in growth["rows"]]
    return [
        "## Growth",
        "",
        f"Made on {growth['made on']}. CPU of the service + of Postgres for a request, in ms, in projects of ever more "
        "threads, turns, audit records, keys, failures, feedback, shares, holds, purges, deliveries and sums of usage, "
        "and a thread with as many turns (`benchmarks/growth.py`). *Exponent* is the larger of the slope over all "
        "sizes and that between the two largest, on logarithmic axes; a constant route may have 0.2, a logarithmic one "
        f"0.3, a linear one 1.2. Above their class: {', '.join(growth['above']) or 'none'}.",
        "",
        "![Exponents by class](plots/growth.svg)",
        "",
        *_table(rows),
        "",
    ]


def _tables(rows: list[Row]) -> list[str]:
    """A table for each workload."""
    parts: list[str] = []
    for workload in dict.fromkeys(row["workload"] for row in rows):
        some = [{k: v for k, v in row.items() if k != "workload"} for row in rows if row["workload"] == workload]
        parts += [f"### {workload[0].upper()}{workload[1:]}", "", *_table(some), ""]
    return parts


def _table(rows: list[Row]) -> list[str]:
    fields = list(dict.fromkeys(field for row in rows for field in row))
    lines = ["| " + " | ".join(CAPTIONS.get(field, field.replace("_", " ")) for field in fields) + " |"]
    lines.append("|" + " --- |" * len(fields))
    lines += ["| " + " | ".join(_shown(row.get(field)) for field in fields) + " |" for row in rows]
    return lines


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _targets(results: Results) -> list[str]:
    """Each target, the figure, and whether it is met."""
    traffic, scale = results["traffic"], results["scale"]
    rows = {(row["workload"], row["target"]): row for row in traffic["plain"] + traffic["stream"]}
    lines = ["| target | measured | met |", "| --- | --- | --- |"]

    def line(target: str, value: float, limit: float, unit: str = "") -> None:
        lines.append(f"| {target} | {value:.2f}{unit} | {'yes' if value <= limit else '**no**'} |")

    def ratio(workload: str, other: str, field: str = "cpu_ms") -> float | None:
        if (workload, other) not in rows:
            return None
        return float(rows[workload, "everthread"][field] / rows[workload, other][field])

    def of_yardstick(workload: str) -> float | None:
        value: float | None = rows[workload, "everthread"].get("of_yardstick")
        return value

    for workload in ("plain turn, 1 at once", "plain turn, 16 at once", "plain turn, 64 at once"):
        if workload != "plain turn, 64 at once" and (value := of_yardstick(workload)) is not None:
            line(f"CPU of a {workload}, of the aiohttp pass-through's: at most 3.5", value, 3.5)
        for other, limit in (("httpx", 1.0), ("litellm", 0.1)):
            if (value := ratio(workload, other)) is not None:
                line(f"CPU of a {workload}, of {other}'s: at most {limit:g}", value, limit)
    for workload in (name for name, target in rows if target == "everthread" and name.startswith("stream of 100 ")):
        if (value := of_yardstick(workload)) is not None:
            line(f"CPU of a {workload}, of the aiohttp pass-through's: at most 2", value, 2)
        for other, limit in (("httpx", 0.5), ("litellm", 0.05)):
            if (value := ratio(workload, other)) is not None:
                line(f"CPU of a {workload}, of {other}'s: at most {limit:g}", value, limit)
    alone, direct = rows["plain turn, 1 at once", "everthread"], rows["plain turn, 1 at once", "direct"]
    line("added latency, one at a time: p50 at most 1.5 ms", alone["p50_ms"] - direct["p50_ms"], 1.5, " ms")
    line("added latency, one at a time: p99 under 5 ms", alone["p99_ms"] - direct["p99_ms"], 5, " ms")
    stream = "stream of 100 deltas, 2 ms apart, 16 at once"
    added = rows[stream, "everthread"]["first_delta_ms"] - rows[stream, "direct"]["first_delta_ms"]
    line("added time to first delta, median at 16 at once: under 5 ms", added, 5, " ms")
    one, two = traffic["workers"]
    halved = one["busiest_cpu_ms"] / two["busiest_cpu_ms"]
    lines.append(
        f"| turns that the busiest worker's core can carry, two workers for one: at least 1.5 times | {halved:.2f} "
        f"| {'yes' if halved >= 1.5 else '**no**'} |"
    )
    threads = scale["threads"]
    for field in ("list_ms", "page_ms", "get_by_name_ms"):
        grown = max(row[field] for row in threads) / min(row[field] for row in threads)
        line(f"{field.removesuffix('_ms').replace('_', ' ')}, {threads[0]['threads']:,} to {threads[-1]['threads']:,} "
             "threads: p50 within 1.5 times", grown, 1.5)  # fmt: skip
    rebuilt = {row["turns"]: row["rebuild_cpu_ms"] for row in scale["long threads"]}
    line("rebuild of 1,000 turns: under 30 ms of CPU", rebuilt[1000], 30, " ms")
    line("rebuild is linear: 10,000 turns at most 15 times 1,000", rebuilt[10000] / rebuilt[1000], 15)
    if "store" in results:
        store = results["store"]
        for row in store["floor"]:
            line(
                f"Postgres's CPU of a plain turn, {row['at once']} at once: at most 2.5 times the floor",
                row["multiple"],
                2.5,
            )
        new = [row["postgres_ms"] for row in store["new database"] if row["round"].isdigit()]
        settled = [row["postgres_ms"] for row in store["new database"] if not row["round"].isdigit()]
        line("a new database's first turns: within 1.3 times the settled state", max(new) / median(settled), 1.3)
        size = {row["table"]: row["bytes_a_turn"] for row in store["bytes"]}
        line("bytes of a turn: at most 8 kB", size["all"] / 1000, 8, " kB")
        line("of those for search: at most 2 kB", size["search"] / 1000, 2, " kB")
        few, many = (row["purged_turns_per_second"] for row in store["forgetting"])
        lines.append(
            f"| purging: at least 5,000 turns/s, among many threads too | {few:,} and {many:,} "
            f"| {'yes' if min(few, many) >= 5000 else '**no**'} |"
        )
    held = next(row["kib_per_stream"] for row in traffic["open streams"] if row["target"] == "everthread")
    line("memory per open stream: under 100 KiB", held, 100, " KiB")
    line("cold start on an existing data directory: under 3 s", scale["cold start"][-1]["seconds"], 3, " s")
    return [*lines, "", *_explained(traffic)]


def _explained(traffic: Results) -> list[str]:
    """Return the reasons for targets that are not met."""
    one, two = traffic["workers"]
    return [
        "*Workers.* Two cores hold one busy worker beside the load, the stand-in and Postgres, so throughput cannot "
        "grow here. The load and the stand-in have a core of their own, the service and its stores the other, and the "
        f"rate is fixed: the busiest of two workers takes {two['busiest_cpu_ms']:.2f} ms of CPU for each turn of the "
        f"whole load, the only one of one {one['busiest_cpu_ms']:.2f} ms, and all processes {two['cpu_ms']:.2f} and "
        f"{one['cpu_ms']:.2f} ms. Not shown: throughput with a core for each worker, and more than two workers.",
        "",
        "*Where the CPU goes* (SIGPROF, plain turns, 16 at once, 2026-11-30): HTTP server, dispatch and keys 30%, "
        "the turn itself 18, Postgres with its driver 15, Redis 11, calling the provider 11, items and context 6, "
        "audit and sealing 5, limits, usage and metrics 3. A pass-through has the first and the fifth only.",
        "",
        "*Python.* Versions 3.13 and 3.14 take 0.96 to 1.06 of the CPU of 3.11, in one run on 2026-11-30.",
    ]
