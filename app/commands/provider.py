"""`everthread provider check`: probes of the endpoint for the facts on which the service relies."""

import asyncio
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.commands.terminal import read_settings, stop
from app.process.output import echo

provider_cli = typer.Typer(no_args_is_help=True, help="Check that the provider behaves as the service expects.")

_WORKSPACE = re.compile(r"//[^./]+(?=\.[a-z0-9-]+\.maas\.aliyuncs\.com)")


@provider_cli.command("check")
def check(
    model: Annotated[
        str | None, typer.Option(help="The model of most probes. Default: EVERTHREAD_DEFAULT_MODEL.")
    ] = None,
    thinking_model: Annotated[str, typer.Option(help="A model that returns encrypted reasoning.")] = "qwen4-max",
    older_model: Annotated[str, typer.Option(help="A model that refuses tool outputs.")] = "qwen-plus",
    captures: Annotated[
        Path | None, typer.Option(file_okay=False, help="The folder for the anonymised answers.")
    ] = None,
) -> None:
    """Probe the configured endpoint with about forty short requests, and print the expected and the actual answers. The
    exit code is 1 if any differ."""
    from app.provider.client import EMULATOR_KEY  # noqa: PLC0415 - other commands begin sooner without these
    from app.provider_check import probes, report  # noqa: PLC0415
    from app.provider_check.runner import Runner  # noqa: PLC0415

    settings = read_settings()
    if settings.dashscope_api_key is None and settings.dashscope_base_url is None:
        stop("Set DASHSCOPE_API_KEY, and DASHSCOPE_REGION or DASHSCOPE_BASE_URL: the endpoint that is checked.")
    key = EMULATOR_KEY if settings.dashscope_api_key is None else settings.dashscope_api_key.get_secret_value()
    base_url, began = settings.provider_base_url, datetime.now(UTC)
    models = {probes.MODEL: model or settings.default_model, probes.THINKING: thinking_model, probes.OLDER: older_model}
    runner, anonymiser = Runner(base_url, key, models), report.Anonymiser(key)
    sys.stderr.write(f"everthread: {_WORKSPACE.sub('//WORKSPACE', base_url)} gets about forty short requests.\n")
    target = captures or Path(f"everthread-provider-check-{began:%Y%m%d-%H%M%S}")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        stop(f"Cannot write {target}: {error.strerror}.")
    outcomes = asyncio.run(runner.run([*probes.PROBES, *probes.region_probes(base_url), *probes.NOT_PROBED]))
    for line in report.table(outcomes, anonymiser):
        echo(line)
    try:
        number = report.write(target, runner, outcomes, anonymiser)
    except OSError as error:
        stop(f"Cannot write {target}: {error.strerror}.")
    ok, differs, left = (sum(each.result == result for each in outcomes) for result in ("ok", "differs", "not probed"))
    echo(
        f"\n{ok} facts hold, {differs} differ, {left} were not probed: {runner.requests} requests in "
        f"{(datetime.now(UTC) - began).total_seconds():.0f} seconds, {runner.tokens['input']} input and "
        f"{runner.tokens['output']} output tokens."
    )
    echo(f"{target}: {number} answers, without keys and ids. docs/provider.md says how to report a difference.")
    if differs:
        raise typer.Exit(1)
