"""README's commands in their order, as written, in a temporary folder with the sandbox; only ports differ."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
#: What other tests run (make, celery), what a machine may not have (docker), and what goes to the real endpoint.
ELSEWHERE = (
    "make ",
    "docker ",
    "celery ",
    "uvicorn ",
    "export PATH=",
    "disparo app set loja --id YOUR_APP_ID ",
    "disparo db ",
)
#: These stay in the foreground, and say so by a first line.
SERVERS = ("disparo sandbox", "disparo up")
PATIENCE_SECONDS = 150.0


def steps() -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block with the output that is shown below it."""
    for block in re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *output = part.splitlines()
            yield command, output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(argv: list[str], env: dict[str, str], folder: Path) -> Iterator[None]:
    """A command that runs until SIGTERM, once it has said ``ready``."""
    with (folder / f"{argv[3]}.log").open("w") as log:
        process = subprocess.Popen(
            argv, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    assert process.stdout is not None
    with process, process.stdout as stdout:
        try:
            line = stdout.readline()
            assert line.startswith("ready"), (line, (folder / f"{argv[3]}.log").read_text())
            yield
            process.terminate()
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def alike(line: str) -> str:
    """A line of output without what differs between two runs."""
    return re.sub(r"^(provider id +).*", r"\1…", " ".join(line.split()))


def keys_of(title: str) -> set[str]:
    """The keys of the JSON object that commands.md shows for a command."""
    line = next(
        line
        for line in COMMANDS.replace("`:\n", "`: ").replace("of all three:\n", "of all three: ").splitlines()
        if title in line
    )
    shown = line.split("`{", 1)[1].split("}`")[0]
    return set(re.findall(r'"(\w+)"', re.sub(r"\[\{.*?\}\]", "", shown)))


def test_the_commands_of_readme_run_as_written_and_print_what_it_shows(home: Path) -> None:
    folder = home / "folder"
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.rejects*.csv"))
    ports = {"disparo sandbox": str(free_port()), "disparo up": str(free_port())}
    env = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
    env |= {"DISPARO_HOME": str(home), "PYTHONSAFEPATH": "1"}
    disparo = [sys.executable, "-m", "disparo"]

    def run(words: list[str]) -> str:
        done = subprocess.run(
            [*disparo, *words],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    ran = []
    with ExitStack() as running:
        for command, shown in steps():
            if command.startswith(ELSEWHERE):
                continue
            words = shlex.split(command.replace(":8900", f":{ports['disparo sandbox']}"))
            if command in SERVERS:
                running.enter_context(served([*disparo, *words[1:], "--port", ports[command]], env, folder))
            elif words[0] == "export":
                name, _, value = words[1].partition("=")
                env[name] = value
            else:
                assert words[0] == "disparo", f"nobody knows how to run: {command}"
                printed = run(words[1:])
                if shown:
                    assert [alike(line) for line in printed.splitlines()] == [
                        alike(line) for line in shown
                    ], command
            ran.append(" ".join(words[:3]) if words[0] == "disparo" else words[0])
        # The shapes that docs/commands.md promises, on what the commands have made.
        for title, words in {
            "`app show --json`": ["app", "show", "loja"],
            "`--json` of all three:": ["message", "show", "1"],
            "`campaign status --json`": ["campaign", "status", "black-friday"],
            "`pix show --json`": ["pix", "show", "MENS-2026-12-001", "--app", "loja"],
        }.items():
            assert set(json.loads(run([*words, "--json"]))) == keys_of(title), title
        (reminder,) = json.loads(run(["reminder", "list", "--json"]))
        assert reminder["state"] == "cancelled"
    assert [word for word in ran if not word.startswith("export")] == [
        "disparo sandbox",
        "disparo app set",
        "disparo up",
        "disparo send --app",
        "disparo message show",
        "disparo payload check",
        "disparo campaign launch",
        "disparo campaign status",
        "disparo campaign export",
        "disparo reminder schedule",
        "disparo reminder convert",
        "disparo pix send",
        "disparo pix show",
        "disparo pix paid",
    ]
    assert (folder / "examples" / "black-friday.rejects.csv").is_file()
