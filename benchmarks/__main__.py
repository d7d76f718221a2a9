"""python -m benchmarks: everything, in some twenty minutes; the report, its plots and its figures beside it."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import growth, memory, report, scale, store, tenants, traffic
from benchmarks.targets import venv

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where REPORT.md, results.json and plots/ go")
    parser.add_argument("--venvs", type=Path, default=Path.home() / ".cache" / "everthread-benchmarks")
    parser.add_argument("--largest", type=int, default=1_000_000, help="threads, turns and records at most")
    parser.add_argument("--skip", action="append", default=[], choices=list(traffic.PEERS))
    parser.add_argument(
        "--only",
        choices=["traffic", "scale", "growth", "store", "memory", "tenants", "report"],
        help="the rest is taken from results.json",
    )
    given = parser.parse_args()
    kept = given.out / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    work = Path(tempfile.mkdtemp(prefix="everthread-benchmarks-"))
    try:
        if given.only in (None, "traffic"):
            results["traffic"] = traffic.run(work / "t", given.venvs, skip=frozenset(given.skip), say=_say)
        if given.only in (None, "scale"):
            results["scale"] = scale.run(work / "s", given.largest, _say)
        if given.only in (None, "growth"):
            grown = growth.run(work / "g", given.largest if given.only else min(given.largest, 10_000), _say)
            results["growth"] = {"made on": _machine()["date"], **grown}
        if given.only in (None, "store"):
            results["store"] = store.run(work / "p", min(given.largest, 300_000), _say)
        if given.only in (None, "memory"):
            results["memory"] = memory.run(work / "m", _say)
        if given.only in (None, "tenants"):
            results["tenants"] = {"made on": _machine()["date"], "turns": tenants.run(work / "n", _say)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if given.only != "report":
        results["machine"] = _machine()
    kept.write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "REPORT.md").write_text(report.report(results))
    python = venv(given.venvs / "plots", ("matplotlib",))
    subprocess.run([str(python), str(HERE / "draw.py"), str(kept), str(given.out / "plots")], check=True)
    _say(f"The report is in {given.out / 'REPORT.md'}.")
    if given.only in (None, "growth") and (above := results["growth"]["above"]):
        sys.exit(f"These routes cost more than their class allows: {', '.join(above)}")


def _machine() -> dict[str, object]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "model": model,
        "python": platform.python_version(),
    }


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
