"""Sprite of the console's icons, built from the npm package of Lucide. `make icons` writes it again."""

import hashlib
import json
import re
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

VENDOR = Path(__file__).parents[1] / "app" / "console" / "vendor"

NAMES = Path(__file__).with_suffix(".txt").read_text().split()


def main() -> None:
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    package = next(each for each in manifest if each["name"] == "lucide-static")
    with TemporaryDirectory() as directory:
        wanted = f"lucide-static@{package['version']}"
        subprocess.run(["npm", "pack", "--silent", wanted], cwd=directory, check=True)
        with tarfile.open(next(Path(directory).glob("*.tgz"))) as packed:
            packed.extractall(directory, filter="data")
        source = Path(directory) / "package"
        sprite = "".join(_symbol(name, (source / "icons" / f"{name}.svg").read_text()) for name in NAMES)
        licence = (source / "LICENSE").read_text()
    text = f'<svg xmlns="http://www.w3.org/2000/svg">\n{sprite}</svg>\n'
    (VENDOR / "icons.svg").write_text(text)
    (VENDOR / "lucide-static.LICENSE").write_text(licence)
    package["files"]["icons.svg"]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (VENDOR / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _symbol(name: str, icon: str) -> str:
    """Return the shapes of an icon as a symbol; the console's style sheet gives the strokes."""
    shapes = re.sub(r"<!--.*?-->|</?svg[^>]*>|\s*\n\s*", "", icon, flags=re.DOTALL)
    return f'<symbol id="{name}" viewBox="0 0 24 24">{shapes}</symbol>\n'


if __name__ == "__main__":
    main()
