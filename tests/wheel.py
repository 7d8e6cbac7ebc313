"""Build the wheel, install it into an empty environment, and run ``db upgrade`` from an empty folder.

What a checkout hides: a file that the wheel forgot, a module found only beside the sources.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    # Below /tmp itself, so that an unprivileged PostgreSQL may enter when this runs as root.
    with tempfile.TemporaryDirectory(prefix="disparo-wheel-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        run("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist"), cwd=ROOT)
        wheel = next((folder / "dist").glob("*.whl"))
        venv.create(folder / "venv", with_pip=False)
        python = folder / "venv" / "bin" / "python"
        site = subprocess.check_output(
            [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
        )
        run(
            "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site.strip(), str(wheel)
        )
        # The dependencies are those of this environment, by a path file that does not lead to the checkout.
        packages = [path for path in sys.path if path.endswith("site-packages")]
        (Path(site.strip()) / "dependencies.pth").write_text("\n".join(packages) + "\n")
        empty = folder / "empty"
        empty.mkdir()
        env = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
        env |= {"DISPARO_HOME": str(folder / "home"), "PYTHONSAFEPATH": "1"}
        where = subprocess.check_output(
            [python, "-c", "import disparo; print(disparo.__file__)"], text=True, cwd=empty
        )
        if not where.startswith(str(folder)):
            sys.exit(f"the installed package was shadowed by {where.strip()}")
        for command in (["--version"], ["db", "upgrade"], ["db", "check"], ["app", "list"]):
            subprocess.run([python, "-m", "disparo", *command], check=True, cwd=empty, env=env)
        for module in ("worker.tasks", "scheduler.ticks", "web.app"):
            subprocess.run([python, "-c", f"import {module}"], check=True, cwd=empty, env=env)
    sys.stdout.write("the wheel works in an empty environment\n")
    return 0


def run(*arguments: str, cwd: Path | None = None) -> None:
    subprocess.run([sys.executable, *arguments], check=True, cwd=cwd)


if __name__ == "__main__":
    sys.exit(main())
