"""Programs that some tests need, and that neither the wheels nor the system bring: .ci/run installs them."""

import shutil
import subprocess
from pathlib import Path

import pytest

DEBIAN = {"curl": "curl", "npm": "npm", "pgbouncer": "pgbouncer", "prometheus": "prometheus"}
"""The Debian package of each."""


def program(name: str) -> Path | None:
    """Return the path of a program, if it is installed. Debian installs some where only root's PATH leads."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return None if found is None else Path(found)


def installed(source: Path, folder: Path) -> Path:
    """A folder with the files of another one, and the npm packages that its package.json names."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    return folder


def needs(name: str) -> pytest.MarkDecorator:
    """Skips a test where a program is missing, with one line that names its package. In CI, a skip is a failure."""
    return pytest.mark.skipif(program(name) is None, reason=f"{name} is not installed: apt-get install {DEBIAN[name]}")
