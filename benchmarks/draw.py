"""The plots of a run. Run in a virtual environment of its own, with matplotlib.

python draw.py RESULTS.json DIRECTORY
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "everthread"
matplotlib.rcParams["svg.fonttype"] = "none"  # Text as text: a tenth of the size.

import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {
    "everthread": "#0b7285",
    "aiohttp": "#868e96",
    "httpx": "#adb5bd",
    "ogx": "#2b8a3e",
    "litellm": "#e8590c",
    "langgraph": "#7048e8",
    "direct": "#ced4da",
}

Results = dict[str, Any]


def bars(results: Results, directory: Path) -> None:
    """The CPU of a plain turn and of a stream, target by target."""
    rows = results["traffic"]["plain"] + results["traffic"]["stream"]
    for workload, title, name in (
        ("plain turn, 16 at once", "CPU of a plain turn, 16 at once (ms)", "plain"),
        ("stream of 100 deltas, 2 ms apart, 16 at once", "CPU of a stream of 100 deltas, 2 ms apart (ms)", "stream"),
    ):
        found = [row for row in rows if row["workload"] == workload and row["target"] != "direct"]
        if not found:
            continue
        figure, axes = plt.subplots(figsize=(6, 0.6 + 0.5 * len(found)))
        names = [row["target"] for row in found]
        values = [row["cpu_ms"] for row in found]
        drawn = axes.barh(names, values, color=[COLOURS[name] for name in names])
        axes.bar_label(drawn, fmt="%.2f", padding=3)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
        axes.invert_yaxis()
        save(figure, directory / f"{name}.svg")


def lines(rows: list[dict[str, Any]], size: str, title: str, path: Path) -> None:
    """Costs against a size, both on logarithmic axes: what is flat stays flat."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for field in rows[0]:
        if field != size:
            axes.plot([row[size] for row in rows], [max(row[field], 0.01) for row in rows], marker="o", label=field)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(size)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def growing(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the input of the model, turn by turn: with compaction, and without."""
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for label, title, colour in (
        ("none", "without compaction: the oldest items are left out", "#ced4da"),
        ("compaction", "with compaction", "#0b7285"),
    ):
        rows = found[label]
        axes.plot([row["turn"] for row in rows], [row["input_tokens"] for row in rows], color=colour, label=title)
    made = found["compaction"]
    new = [row for row, before in zip(made[1:], made, strict=False) if row["compaction"] != before["compaction"]]
    axes.plot([row["turn"] for row in new], [row["input_tokens"] for row in new], "o", color="#e8590c", ms=4,
              label="a summary is taken up")  # fmt: skip
    lost = [row["turn"] for row in found["none"] if row["dropped_items"]]
    if lost:
        axes.axvline(
            lost[0], color="#adb5bd", linestyle=":", label="from here on the beginning is forgotten, without one"
        )
    axes.set_xlabel("turn")
    axes.set_title("Tokens that the model is sent, in a window of 8,000", fontsize=10, loc="left")
    axes.set_ylim(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=2)
    save(figure, path)


def cache(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the cost of conversations by their pace, with the provider's cache off, on and automatic."""
    figure, axes = plt.subplots(figsize=(6, 3.2))
    soon = [100 * row["soon"] for row in rows]
    axes.axhline(1, color="#ced4da", label="off")
    for mode, colour in (("on", "#e8590c"), ("auto", "#0b7285")):
        for how, style in (("in bursts", "-"), ("at random", ":")):
            name = f"{mode}, {how}"
            axes.plot(soon, [row[name] for row in rows], style, color=colour, label=name)
    axes.set_xlabel("% of the turns within five minutes of the one before")
    axes.set_title("What the input costs, off being 1", fontsize=10, loc="left")
    axes.set_ylim(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    save(figure, path)


def growth(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the cost of every route against the size of its project, by class."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    colours = {"constant": "#0b7285", "logarithmic": "#7048e8", "linear": "#e8590c"}
    for row in rows:
        costs = {int(name.replace(",", "")): cost for name, cost in row.items() if name[0].isdigit()}
        totals = [max(sum(map(float, cost.split(" + "))), 0.05) for cost in costs.values()]
        axes.plot(list(costs), totals, color=colours[row["class"]], alpha=1 if row["above"] else 0.35, linewidth=1)
    for name, colour in colours.items():
        axes.plot([], [], color=colour, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("threads, turns, records … of the project")
    axes.set_title("CPU of a request to each route, service and Postgres (ms)", fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main(results: Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    bars(results, directory)
    scale = results["scale"]
    lines(scale["threads"], "threads", "Listing and by-name reads (ms)", directory / "threads.svg")
    lines(scale["long threads"], "turns", "Threads of many turns (ms)", directory / "long-threads.svg")
    if len(scale["search"]) > 1:
        lines(scale["search"], "turns", "Search among many turns (ms)", directory / "search.svg")
        lines(scale["audit"], "records", "Audit trail", directory / "audit.svg")
    if "growth" in results:
        growth(results["growth"]["rows"], directory / "growth.svg")
    if "memory" in results:
        growing(results["memory"]["growing"], directory / "memory.svg")
        cache(results["memory"]["cache"], directory / "cache.svg")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
