"""``disparo demo``: three uses on this machine, by real processes against the sandbox.

Nothing of whoever runs it counts: the home is thrown away afterwards, and no ``DISPARO_*`` variable, ``.env`` or
token is seen by the processes that it starts.
"""

import contextlib
import ctypes
import json
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import typer

from disparo.cli.output import FAILED, NEEDS_A_PERSON, note
from disparo.errors import DisparoError

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy.orm import Session

FILES = Path(__file__).parent / "demo_files"

#: Ends of numbers that the sandbox treats in a way of their own; a few rows of recipients.csv have them.
FAULTS = {"0001": "meta:131026", "0002": "gupshup:1012", "0003": "500*1", "0004": "close-after"}

#: A first start copies and initialises PostgreSQL, which a busy machine takes its time for.
START_SECONDS = 150.0
COMMAND_SECONDS = 150.0
#: `disparo up` promises to end within 30.
STOP_SECONDS = 35.0

# Variables by which others than Disparo would change what its processes connect to.
_FOREIGN = ("DISPARO_", "PG", "CELERY_")


class DemoFailed(DisparoError):
    """A part of the demo did not do what it shows; carries the last lines of what it wrote."""


def demo() -> None:
    """Show a campaign, cart reminders and a PIX batch with the sandbox, on servers of its own."""
    begun = time.monotonic()
    console = _console()
    try:
        with Stage() as stage:
            console.print("Disparo's demo, on servers of its own: nothing leaves this machine")
            url = stage.open()
            console.print(
                f"PostgreSQL, Redis, sandbox, workers and scheduler are up ({time.monotonic() - begun:.0f} s)"
            )
            play(stage, console, url)
            show_outcome(stage, console, url, begun)
    except KeyboardInterrupt:
        note("stopped; nothing of the demo is left behind")
        raise typer.Exit(FAILED) from None


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


# --- the play ------------------------------------------------------------------------------------------


def play(stage: "Stage", console: "Console", url: str) -> None:
    """The three uses, by the commands that one would type."""

    def command(*argv: str, may: Iterable[int] = (0,)) -> str:
        console.print(f"$ disparo {shlex.join(argv)}", markup=False)
        return stage.run(argv, may=may)[0]

    def show(*argv: str, may: Iterable[int] = (0,)) -> None:
        # A status may follow its first line; the figures are in the table at the end.
        console.print(command(*argv, may=may).split("\n", 1)[0], markup=False)

    command(
        "app", "set", "loja", "--id=demo-app", "--rate=80", f"--base-url={url}", "--window=marketing=always"
    )
    console.print("\n[bold]1  Abandoned carts[/]: two are reminded, the third customer buys before")
    schedules = [
        ("reminder", "schedule", "cart.json", "--app=loja", f"--key={cart}", f"--to={to}", f"--in={delay}")
        for cart, to, delay in CARTS
    ]
    console.print(f"$ disparo {shlex.join(schedules[0])}", markup=False)
    console.print("  and the same for " + " and ".join(f"{cart} in {delay}" for cart, _, delay in CARTS[1:]))
    stage.run(*schedules)
    show("reminder", "convert", CARTS[-1][0], "--app=loja")
    console.print("\n[bold]2  A marketing campaign[/] from a spreadsheet with its usual faults")
    launch = ("campaign", "launch", "black-friday.yaml", "recipients.csv", "--yes", "--wait")
    # Those of unknown outcome wait for a person, and the command says so by its exit code.
    show(*launch, may=(0, NEEDS_A_PERSON))
    console.print("\n[bold]3  Requests for payment by PIX[/], one with a code that lost a character")
    show("pix", "send", "school-fees.yaml", "charges.csv", "--yes", "--wait")


#: Key, number and delay. The last one converts, so its reminder is given time that a slow machine cannot use up.
CARTS = (("cart-71", "5511999997701", "3s"), ("cart-72", "5521999997702", "3s"), ("cart-73", "5531999997703", "60s"))  # fmt: skip


# --- the outcome ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """A message as Disparo has it."""

    use: str
    status: str
    code: str | None
    attempts: int
    gs_id: str | None
    recipient: str


@dataclass(frozen=True, slots=True)
class Account:
    """Disparo's books against the sandbox's."""

    #: Without an outcome, or recorded as accepted under an id that the sandbox never gave.
    lost: int
    #: Accepted by the sandbox and neither recorded as accepted nor as unknown.
    doubled: int
    unknown: int
    #: Of the unknown ones, those that the sandbox had accepted.
    unknown_accepted: int


def compare(recorded: Sequence[Recorded], accepted: Iterable[dict[str, Any]]) -> Account:
    """Hold each message against what the sandbox accepted (``GET /accepted``); pure."""
    given = {entry["id"]: entry["to"] for entry in accepted}
    known = {message.gs_id for message in recorded if message.status == "accepted"}
    lost = sum(message.status in ("pending", "sending") for message in recorded)
    lost += sum(message.status == "accepted" and message.gs_id not in given for message in recorded)
    rest = Counter(to for identity, to in given.items() if identity not in known)
    unknown = Counter(message.recipient for message in recorded if message.status == "unknown")
    explained = rest & unknown
    return Account(lost, (rest - explained).total(), unknown.total(), explained.total())


def show_outcome(stage: "Stage", console: "Console", url: str, begun: float) -> None:
    """Wait for the reminders, then print what became of everything and where to go next.

    Raises:
      DemoFailed: The books differ, or a reminder did not leave.
    """
    from disparo.connections import connect
    from disparo.settings import Environment

    ours = {name: value for name, value in stage.env.items() if name.startswith("DISPARO_")}
    with connect(Environment(ours), name="disparo-demo") as connections:

        def recorded() -> list[Recorded]:
            with connections.session() as session:
                return _recorded(session)

        wanted = len(CARTS) - 1
        stage.until(
            lambda: sum(one.use == CARTS_USE and one.status == "accepted" for one in recorded()) >= wanted,
            COMMAND_SECONDS,
            f"{wanted} reminders were to leave, and did not",
        )
        messages = recorded()
        with connections.session() as session:
            refused, repeated = _refused(session)
            converted = _converted(session)
    accepted = [json.loads(line) for line in _get(f"{url}/accepted").splitlines()]
    arrivals = json.loads(_get(f"{url}/stats"))["arrivals"]
    account = compare(messages, accepted)
    console.print()
    console.print(_table(messages, refused, repeated, converted))
    console.print(
        f"the sandbox counted {arrivals} requests and accepted {len(accepted)}; "
        f"all of it took {time.monotonic() - begun:.0f} s"
    )
    of_which = f", of which the sandbox had accepted {account.unknown_accepted}" if account.unknown else ""
    console.print(
        f"[bold]lost {account.lost}, doubled {account.doubled}, unknown {account.unknown}[/]{of_which}"
    )
    console.print("Where to go next (README.md tells more):")
    for command, what in NEXT:
        console.print(f"  {command:<42}  {what}", markup=False)
    if account.lost or account.doubled:
        raise DemoFailed("the books of Disparo and of the sandbox differ, see above; please report it")


#: Real commands, in the order in which one needs them.
NEXT = (
    ("disparo up", "start everything, for real"),
    ("disparo app set NAME --id APP_ID", "make your app known"),
    ("disparo send --app NAME --to N FILE --wait", "send a first message"),
    ("disparo campaign launch FILE RECIPIENTS", "send to many"),
)

CARTS_USE, CAMPAIGN_USE, PIX_USE = "carts", "black-friday", "school-fees"

_MEANING = {"131026": "not on WhatsApp", "1012": "opted out"}


def _table(
    messages: Sequence[Recorded],
    refused: dict[str, Counter[str]],
    repeated: dict[str, int],
    converted: int,
) -> Any:
    from rich.table import Table

    uses = (CARTS_USE, CAMPAIGN_USE, PIX_USE)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "carts", "campaign", "PIX", "why"):
        table.add_column(name, justify="left" if name in ("", "why") else "right")

    def add(name: str, count: Callable[[str], int], why: str = "") -> None:
        counts = [count(use) for use in uses]
        if any(counts):
            table.add_row(name, *(str(n) if n else "-" for n in counts), why)

    def having(status: str) -> Callable[[str], int]:
        return lambda use: sum(one.use == use and one.status == status for one in messages)

    reasons: Counter[str] = Counter()
    for found in refused.values():
        reasons.update(found)
    retried = sum(one.status == "accepted" and one.attempts > 1 for one in messages)
    codes = Counter(one.code for one in messages if one.status == "failed")
    add(
        "refused rows",
        lambda use: refused.get(use, Counter()).total(),
        "in a file beside the list, with reasons",
    )
    add("duplicate rows", lambda use: repeated.get(use, 0), "the same phone, spelt differently")
    add("accepted", having("accepted"), f"{retried} at the second try, after a 500")
    add(
        "failed",
        having("failed"),
        ", ".join(f"{n} {_MEANING.get(code or '', code)}" for code, n in codes.items()),
    )
    add("unknown", having("unknown"), "no answer came: held, never sent twice")
    add("cancelled", lambda use: converted if use == CARTS_USE else 0, "the customer bought first")
    return table


def _recorded(session: "Session") -> list[Recorded]:
    from sqlalchemy import text

    rows = session.execute(
        text("""
            SELECT coalesce(c.name, :carts), m.status, m.code, m.attempts, m.gs_id, m.recipient
            FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id ORDER BY m.id"""),
        {"carts": CARTS_USE},
    )
    return [Recorded(*row) for row in rows]


def _refused(session: "Session") -> tuple[dict[str, Counter[str]], dict[str, int]]:
    """Per campaign the refused rows by reason, and how many were duplicates."""
    from sqlalchemy import text

    refused: dict[str, Counter[str]] = {}
    repeated: dict[str, int] = {}
    rows = session.execute(
        text("""
            SELECT c.name, r.reason, count(*) FROM import_rejects r JOIN imports i ON i.id = r.import_id
            JOIN campaigns c ON c.id = i.campaign_id GROUP BY c.name, r.reason""")
    )
    for name, reason, n in rows:
        if reason == "duplicate":
            repeated[name] = n
        else:
            refused.setdefault(name, Counter())[reason] = n
    return refused, repeated


def _converted(session: "Session") -> int:
    from sqlalchemy import text

    return int(
        session.execute(text("SELECT count(*) FROM reminders WHERE status = 'cancelled'")).scalar_one()
    )


def _get(url: str) -> str:
    import urllib.request

    # No proxy of the environment stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())


# --- the stage: a home, its processes, and their end ---------------------------------------------------


class Stage:
    """A throw-away home with the demo's files, and the processes that play in it; leaving ends and removes all.

    Used in the main thread. SIGTERM and SIGHUP end the demo as Ctrl-C does; the first of them counts.
    """

    def __init__(self) -> None:
        self._children: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self._commands: list[subprocess.Popen[bytes]] = []
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _ENDINGS:
            # Whoever started us with one of them ignored, as nohup does, means it.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, _interrupt)
        # Below the temporary folder itself, where the user that runs root's PostgreSQL may pass.
        self.home = Path(tempfile.mkdtemp(prefix="disparo-demo-"))
        self.folder = self.home / "files"
        self.token = f"sk_{secrets.token_hex(16)}"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self.env |= {
            "DISPARO_HOME": str(self.home),
            "DISPARO_TOKEN_LOJA": self.token,
            "PYTHONUNBUFFERED": "1",
            "PYTHONSAFEPATH": "1",
        }
        return self

    def open(self) -> str:
        """Start the sandbox and `disparo up`; the sandbox's address, when all live."""
        # Rejects are written beside their lists, and the package's own folder may be read-only.
        shutil.copytree(FILES, self.folder, copy_function=shutil.copyfile)
        faults = [f"--fault={end}={fault}" for end, fault in FAULTS.items()]
        app = f"--app=demo-app={self.token}"
        sandbox = self._start("sandbox", "sandbox", "--port=0", "--latency-ms=30-120", app, *faults)
        up = self._start("up", "up", "--port", str(_free_port()))

        def ready(log: Path) -> str | None:
            lines = (line for line in _lines(log) if line.split()[:1] == ["ready"])
            return next(lines, None)

        self.until(lambda: ready(sandbox), START_SECONDS, "`disparo sandbox` did not become ready")
        self.until(lambda: ready(up), START_SECONDS, "`disparo up` did not become ready")
        return str(ready(sandbox)).split()[1]

    def run(self, *commands: Sequence[str], may: Iterable[int] = (0,)) -> list[str]:
        """Run commands of Disparo at the same time, as one would type them; what each printed.

        Raises:
          DemoFailed: One ended with another exit code than those of ``may``, or did not end.
        """
        # On a terminal a progress bar is seen as it goes; elsewhere what is told is kept for an error.
        live = sys.stderr.isatty()
        with contextlib.ExitStack() as files:
            outputs = [files.enter_context(tempfile.TemporaryFile()) for _ in commands]
            progress = files.enter_context(tempfile.TemporaryFile())
            for argv, output in zip(commands, outputs, strict=True):
                self._commands.append(self._spawn(argv, output, None if live else progress))
            named = " and ".join(f"`disparo {shlex.join(argv)}`" for argv in commands)
            self.until(
                lambda: all(process.poll() is not None for process in self._commands),
                COMMAND_SECONDS,
                f"{named} did not end",
            )
            printed = [_read(output) for output in outputs]
            for argv, process, text in zip(commands, self._commands, printed, strict=True):
                if process.returncode not in may:
                    what = f"`disparo {shlex.join(argv)}` ended with exit code {process.returncode}"
                    raise DemoFailed(self._with_logs(what, (text + _read(progress)).splitlines()))
            self._commands.clear()
        return printed

    def until(self, done: Callable[[], object], seconds: float, failure: str) -> None:
        """Look again until ``done`` says yes.

        Raises:
          DemoFailed: A process died, or the time is over.
        """
        ends_at = time.monotonic() + seconds
        while not done():
            dead = [name for name, process, _ in self._children if process.poll() is not None]
            if dead:
                raise DemoFailed(self._with_logs(f"`disparo {dead[0]}` ended on its own"))
            if time.monotonic() > ends_at:
                raise DemoFailed(self._with_logs(f"{failure} within {seconds:.0f} s"))
            time.sleep(0.1)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # A Ctrl-C must not leave a half behind; what follows is bounded in time.
        for number in _ENDINGS:
            self._handlers.setdefault(number, signal.getsignal(number))
            signal.signal(number, _pass)
        try:
            for command in self._commands:
                _end(command, 0)
            if sys.stderr.isatty():
                with contextlib.suppress(OSError):
                    # A progress bar that was cut off has left it hidden.
                    os.write(2, b"\x1b[?25h")
            for _, process, _ in reversed(self._children):
                _end(process, STOP_SECONDS)
            self._remove()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _remove(self) -> None:
        from disparo import embedded

        ends_at = time.monotonic() + STOP_SECONDS
        while True:
            try:
                embedded.discard(self.home)
                break
            except DisparoError as err:
                # Workers of an `up` that was killed are told so by the kernel, and drain.
                if time.monotonic() > ends_at:
                    note(f"the servers of the demo could not be removed: {err}")
                    break
                time.sleep(0.25)
        shutil.rmtree(self.home, ignore_errors=True)

    def _start(self, name: str, *argv: str) -> Path:
        log = self.home / f"{name}.log"
        with log.open("wb") as stream:
            self._children.append((name, self._spawn(argv, stream, stream), log))
        return log

    def _spawn(
        self, argv: Sequence[str], stdout: IO[bytes], stderr: IO[bytes] | None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own commands
            [sys.executable, "-m", "disparo", *argv],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            # Ctrl-C reaches us alone, and we end the others in order.
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()),
        )

    def _with_logs(self, sentence: str, lines: Sequence[str] = ()) -> str:
        parts = [sentence]
        if lines:
            parts += ["the last that it wrote:", *(f"    {line}" for line in lines[-8:])]
        for name, _, log in self._children:
            if tail := _lines(log)[-8:]:
                parts += [f"the last of `disparo {name}`:", *(f"    {line}" for line in tail)]
        return "\n".join(parts)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()


#: What ends the demo.
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(*_: object) -> None:
    # Here, because a second one may come before the cleaning up has begun.
    for number in _ENDINGS:
        signal.signal(number, _pass)
    raise KeyboardInterrupt


def _pass(*_: object) -> None:
    # Not SIG_IGN: Python would tell of one that came just before.
    pass


def _dies_with(parent: int) -> Callable[[], None] | None:
    """What a child does before it begins, so that it ends when we are killed; only Linux offers it."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def before() -> None:
        libc.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG, prctl(2)
        if os.getppid() != parent:
            os._exit(1)

    return before


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a process to end and wait so long (0: do not ask), then end it with all of its session."""
    if seconds and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    # Below the range from which systems take ports for outgoing connections, so that it stays free until used.
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DemoFailed("no port between 20000 and 32000 of 127.0.0.1 is free")
