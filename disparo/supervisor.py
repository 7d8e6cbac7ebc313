"""A set of child processes kept running in the foreground, for ``disparo up``.

One loop in the main thread waits for signals, for what children write and for the next deadline, and does
nothing in between. What there is to say goes through one thread of its own, so that a terminal or a pipe
that has stopped reading never holds up a restart or a stop.

Children run in sessions of their own: a Ctrl-C on the terminal reaches the supervisor alone, which stops
them in order. On Linux the kernel sends them SIGTERM when the supervisor dies, also by kill -9
(``PR_SET_PDEATHSIG``, prctl(2): tied to the thread that spawned, hence everything in the main thread). On
other systems a small watcher beside each child waits for the end of a pipe that the supervisor holds open.
Both are set up by a trampoline, a Python of a few lines that becomes the child by exec: no code of ours
runs between fork and exec, where other threads' locks may be held for ever.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

#: A stop takes no longer than this, whatever children do; 30 s are promised to the caller.
STOP_SECONDS = 28.0
#: A child that lived so long starts its back-off anew.
STEADY_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 0.5
#: Sending is back within ten seconds, however often a worker was killed before.
LONGEST_BACKOFF_SECONDS = 4.0
#: So many runs shorter than ``SHORT_SECONDS``, one after the other and before the system was ever ready, and
#: the child cannot be started.
START_FAILURES = 5
SHORT_SECONDS = 10.0

_READY_POLL_SECONDS = 0.5
_GROUP_POLL_SECONDS = 0.25
# Kept free for each later group while one is being stopped, so that none is killed untried.
_RESERVE_SECONDS = 1.0
_FLUSH_SECONDS = 1.5
_TAIL_LINES = 20
_LONGEST_LINE = 64 * 1024
_LONGEST_QUEUE = 8 * 1024 * 1024

# Arguments: the supervisor's pid, "prctl" or the descriptor of the pipe that ends with it, the command. The
# look at the parent comes after the request for the signal: one that died before it sends none.
_TRAMPOLINE = """
import os, sys
supervisor, mode, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
if mode == "prctl":
    try:
        import ctypes
        ctypes.CDLL(None, use_errno=True).prctl(1, 15, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass
else:
    lifeline = int(mode)
    if os.fork() == 0:
        import select, signal
        child, null = os.getppid(), os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        while os.getppid() == child:
            if select.select([lifeline], [], [], 0.5)[0]:
                os.kill(child, signal.SIGTERM)
                break
        os._exit(0)
    os.close(lifeline)
if os.getppid() != supervisor:
    os._exit(0)
try:
    os.execvp(command[0], command)
except OSError as err:
    os.write(2, f"{command[0]} cannot be started: {err.strerror}\\n".encode())
    os._exit(127)
"""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that is to run.

    Attributes:
      name: Unique; stands before each line that the child writes.
      argv: Program (found on the ``PATH`` of ``env``) and arguments.
      env: The child's whole environment.
      cwd: Folder in which it runs.
      stop_after: Order of stopping: group 0 first, the next when all of it have ended.
      grace_seconds: Between SIGTERM and SIGKILL, shorter where the whole stop would take too long.
    """

    name: str
    argv: Sequence[str]
    env: dict[str, str] = field(repr=False)  # may hold secrets
    cwd: Path
    stop_after: int = 0
    grace_seconds: float = 10.0


class Supervisor:
    """Runs children until it is told to stop, and leaves none behind.

    ``run`` may be called once, in the main thread. Each child that ends is started again: after 0.5, 1,
    2, … 30 seconds, and after 0.5 again when it had lived a minute. SIGTERM, SIGINT or SIGHUP stop the
    children group by group, within 30 seconds together.
    """

    def __init__(
        self,
        children: Sequence[Child],
        log: Callable[[str], None],
        *,
        ready: Callable[[], bool] = lambda: True,
        on_ready: Callable[[], None] = lambda: None,
        prefix: bool = True,
        output: int = 2,
        first_backoff_seconds: float = FIRST_BACKOFF_SECONDS,
        stop_seconds: float = STOP_SECONDS,
        dies_with: Literal["prctl", "pipe"] = "prctl" if sys.platform == "linux" else "pipe",
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
          children: In the order of starting.
          log: Takes one sentence about the children; called in a thread of its own, one call at a time,
            in order with what children write.
          ready: Asked twice a second, in the main thread, while all children live; must answer soon.
          on_ready: Called once, in the main thread, when ``ready`` first says yes.
          prefix: Whether the name of the child stands before each line of its output.
          output: File descriptor that takes what children write, stdout and stderr alike.
          first_backoff_seconds: Before the first restart.
          stop_seconds: Longest stop.
          dies_with: How children notice a supervisor that was killed: by the kernel, or by a watcher.
        """
        self._runs = [_Run(child) for child in children]
        self._ready, self._on_ready = ready, on_ready
        self._first_backoff = first_backoff_seconds
        self._stop_seconds = stop_seconds
        self._dies_with = dies_with
        self._lifeline: tuple[int, int] | None = None  # pipe: nothing is written, its end says that we died
        width = max((len(child.name) for child in children), default=0) if prefix else 0
        self._prefix = {
            child.name: f"{child.name:<{width}} | ".encode() if prefix else b"" for child in children
        }
        self._voice = _Voice(log, output)
        self._selector = selectors.DefaultSelector()
        self._signals: socket.socket
        self._was_ready = False
        self._ready_at = 0.0  # when ``ready`` is asked next
        self._orphans: dict[int, float] = {}  # process group of a dead child → when it is killed
        self._stop_by: float | None = None  # set once a stop has begun
        self._failed: _Run | None = None

    def run(self) -> int:
        """Start the children and stay until all have been stopped.

        Returns:
          0 after an ordered stop; 1 when a child could not be started at all: everything else was stopped,
          and the last lines that it wrote were logged.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "the supervisor runs in the main thread: signals and the children's death signal need it"
            )
        self._signals, woken = socket.socketpair()
        self._signals.setblocking(False)
        woken.setblocking(False)
        old_wakeup = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        # A handler of Python's has to be there for the number to reach the socket; the loop reads it.
        watched = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
            watched.append(signal.SIGHUP)
        old_handlers = {number: signal.signal(number, _note) for number in watched}
        self._selector.register(self._signals, selectors.EVENT_READ)
        self._voice.start()
        if self._dies_with == "pipe":
            self._lifeline = os.pipe()
        try:
            for run in self._runs:
                self._start(run)
            while not self._is_over():
                self._turn()
        except BaseException as err:
            # Of the caller's ``ready`` or ``on_ready``, say. Workers still get the time to finish requests.
            if self._stop_by is None:
                self._begin_stop(f"the supervisor itself failed ({type(err).__name__})")
            while not self._is_over():
                self._turn()
            raise
        finally:
            self._kill_all()
            self._voice.close()
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in old_handlers.items():
                signal.signal(number, handler)
            self._selector.close()
            for descriptor in self._lifeline or ():
                os.close(descriptor)
            self._signals.close()
            woken.close()
        return 1 if self._failed else 0

    # --- the loop ---

    def _turn(self) -> None:
        deadline = self._next_deadline()
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._signals:
                self._read_signals()
            else:
                self._read_output(key.data)
        self._reap()
        now = time.monotonic()
        if self._stop_by is None:
            for run in self._runs:
                if run.start_at is not None and run.start_at <= now:
                    self._start(run)
            self._look_whether_ready(now)
        else:
            self._stop_next_group(now)
        self._kill_orphans(now)

    def _next_deadline(self) -> float | None:
        now = time.monotonic()
        deadlines = [run.start_at for run in self._runs if run.start_at is not None]
        deadlines += [run.kill_at for run in self._runs if run.kill_at is not None]
        if self._orphans:
            deadlines.append(now + _GROUP_POLL_SECONDS)
        if self._stop_by is not None:
            deadlines.append(self._stop_by)
        elif not self._was_ready and all(run.process for run in self._runs):
            deadlines.append(self._ready_at)
        return min(deadlines, default=None)

    def _read_signals(self) -> None:
        try:
            numbers = self._signals.recv(4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGCHLD:
                continue
            if self._stop_by is None:
                self._begin_stop(f"{signal.Signals(number).name} received")
            else:
                waiting = ", ".join(run.child.name for run in self._runs if run.process) or "nothing"
                left = max(0.0, self._stop_by - time.monotonic())
                self._say(
                    f"draining: waiting for {waiting} to finish what is begun, at most {left:.0f} s more"
                )

    def _look_whether_ready(self, now: float) -> None:
        if self._was_ready or now < self._ready_at or not all(run.process for run in self._runs):
            return
        self._ready_at = now + _READY_POLL_SECONDS
        if self._ready():
            self._was_ready = True
            self._on_ready()

    def _is_over(self) -> bool:
        if self._stop_by is None:
            return False
        return time.monotonic() >= self._stop_by or not (
            self._orphans or any(run.process for run in self._runs)
        )

    # --- starting and dying ---

    def _start(self, run: "_Run") -> None:
        run.start_at = None
        run.started_at = time.monotonic()
        run.tail.clear()
        reader, writer = os.pipe()
        lifeline = self._lifeline[:1] if self._lifeline else ()
        death = str(lifeline[0]) if lifeline else "prctl"
        try:
            run.process = subprocess.Popen(  # noqa: S603 - the caller's command
                [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), death, *run.child.argv],
                env=run.child.env,
                cwd=run.child.cwd,
                stdin=subprocess.DEVNULL,
                pass_fds=lifeline,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        except OSError as err:
            os.close(reader)
            run.tail.append(f"{err.strerror}: {err.filename}" if err.filename else str(err.strerror))
            self._plan_restart(run, f"cannot be started ({run.tail[-1]})")
            return
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        self._selector.register(reader, selectors.EVENT_READ, _Stream(run, reader))

    def _reap(self) -> None:
        for run in self._runs:
            process = run.process
            if process is None or process.poll() is None:
                continue
            run.process = run.kill_at = None
            self._read_what_is_left(run)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # Processes that the child had started itself, such as a pool whose parent was killed.
                os.killpg(process.pid, signal.SIGTERM)
                self._orphans[process.pid] = time.monotonic() + run.child.grace_seconds
            ended = _in_words(process.returncode)
            if self._stop_by is not None:
                if process.returncode != -signal.SIGTERM and process.returncode != 0:
                    self._say(f"{run.child.name} {ended} while stopping")
                continue
            lived = time.monotonic() - run.started_at
            self._plan_restart(run, f"{ended} after {_seconds(lived)}", lived)

    def _plan_restart(self, run: "_Run", what: str, lived: float = 0.0) -> None:
        if lived >= STEADY_SECONDS:
            run.backoff = 0.0
        run.short_runs = run.short_runs + 1 if lived < SHORT_SECONDS else 0
        if not self._was_ready and run.short_runs >= START_FAILURES:
            self._failed = run
            last = "".join(f"\n    {line}" for line in run.tail) or " nothing"
            self._say(
                f"{run.child.name} {what}, for the {run.short_runs}th time: it cannot be started, stopping. "
                f"The last that it wrote:{last}"
            )
            self._begin_stop(None)
            return
        run.backoff = min(max(run.backoff * 2, self._first_backoff), LONGEST_BACKOFF_SECONDS)
        run.start_at = time.monotonic() + run.backoff
        self._say(f"{run.child.name} {what}; it is started again in {_seconds(run.backoff)}")

    # --- stopping ---

    def _begin_stop(self, why: str | None) -> None:
        self._stop_by = time.monotonic() + self._stop_seconds
        for run in self._runs:
            run.start_at = None
        if why:
            self._say(f"{why}: stopping, in at most {_seconds(self._stop_seconds)}")

    def _stop_next_group(self, now: float) -> None:
        live = [run for run in self._runs if run.process]
        if not live or self._stop_by is None:
            return
        group = min(run.child.stop_after for run in live)
        later = len({run.child.stop_after for run in live}) - 1
        for run in (run for run in live if run.child.stop_after == group and run.process):
            if run.kill_at is None:
                # A share of the time stays with the groups that come later.
                latest = max(now, self._stop_by - _RESERVE_SECONDS * (later + 1))
                run.kill_at = min(now + run.child.grace_seconds, latest)
                _signal(run, signal.SIGTERM)
            elif run.kill_at <= now:
                self._say(f"{run.child.name} did not stop in time: killed")
                run.kill_at = now + _RESERVE_SECONDS  # until it is reaped
                _signal(run, signal.SIGKILL)

    def _kill_orphans(self, now: float) -> None:
        for group, kill_at in list(self._orphans.items()):
            # They are ours to reap where the supervisor is the first process of a container.
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-group, os.WNOHANG)[0]:
                    pass
            try:
                # A group's number is not given out again while a process is in the group.
                os.killpg(group, signal.SIGKILL if kill_at <= now else 0)
            except (ProcessLookupError, PermissionError):
                del self._orphans[group]
            else:
                if kill_at <= now:
                    del self._orphans[group]

    def _kill_all(self) -> None:
        """End whatever still lives, and read all that was written."""
        for run in self._runs:
            if run.process is not None:
                _signal(run, signal.SIGKILL)
                # Only a process within a system call that cannot be broken off outlives the wait.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.process.wait(1)
                run.process = None
        for group in self._orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Stream):
                self._read_output(key.data)
                self._close(key.data)

    # --- output ---

    def _read_output(self, stream: "_Stream") -> None:
        # A bounded number of reads: a child that never stops writing must not keep the loop.
        for _ in range(16):
            try:
                data = os.read(stream.descriptor, 65536)
            except BlockingIOError:
                return
            if not data:
                self._close(stream)
                return
            *lines, stream.rest = (stream.rest + data).split(b"\n")
            if len(stream.rest) > _LONGEST_LINE:
                lines.append(stream.rest)
                stream.rest = b""
            for line in lines:
                self._pass_on(stream.run, line)

    def _read_what_is_left(self, run: "_Run") -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Stream) and key.data.run is run:
                self._read_output(key.data)

    def _close(self, stream: "_Stream") -> None:
        if stream.is_closed:
            return
        stream.is_closed = True
        if stream.rest:
            self._pass_on(stream.run, stream.rest)
        self._selector.unregister(stream.descriptor)
        os.close(stream.descriptor)

    def _pass_on(self, run: "_Run", line: bytes) -> None:
        run.tail.append(line.decode(errors="replace").rstrip())
        self._voice.line(self._prefix[run.child.name] + line + b"\n")

    def _say(self, sentence: str) -> None:
        self._voice.sentence(sentence)


@dataclass(slots=True)
class _Run:
    """A child and its present process, or when it gets the next."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float | None = None
    kill_at: float | None = None
    backoff: float = 0.0
    short_runs: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))


@dataclass(slots=True)
class _Stream:
    """The pipe of one process; it may outlive it while processes of the child's own hold it."""

    run: _Run
    descriptor: int
    rest: bytes = b""
    is_closed: bool = False


class _Voice:
    """Writes lines of children and sentences about them, in order, in a thread of its own.

    Children's lines that a stalled reader does not take are kept up to 8 MB, then left out and
    counted. When the reader is gone, everything is dropped.
    """

    def __init__(self, log: Callable[[str], None], output: int) -> None:
        self._log, self._output = log, output
        self._queue: deque[bytes | str] = deque()
        self._size = self._left_out = 0
        self._changed = threading.Condition()
        self._is_closing = self._is_deaf = False
        self._thread = threading.Thread(target=self._write, name="supervisor-output", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def line(self, line: bytes) -> None:
        with self._changed:
            if self._size + len(line) > _LONGEST_QUEUE:
                self._left_out += 1
                return
            if self._left_out:
                self._queue.append(
                    f"{self._left_out} lines of output were left out: nobody took them in time"
                )
                self._left_out = 0
            self._queue.append(line)
            self._size += len(line)
            self._changed.notify()

    def sentence(self, sentence: str) -> None:
        with self._changed:
            self._queue.append(sentence)
            self._changed.notify()

    def close(self) -> None:
        """Wait until everything is written, or for a second and a half when nobody takes it."""
        with self._changed:
            if self._left_out:
                self._queue.append(
                    f"{self._left_out} lines of output were left out: nobody took them in time"
                )
            self._is_closing = True
            self._changed.notify()
        self._thread.join(_FLUSH_SECONDS)

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._is_closing:
                    self._changed.wait()
                if not self._queue:
                    return
                item = self._queue.popleft()
                self._size -= len(item) if isinstance(item, bytes) else 0
            # What a log function raises must not end the children with it.
            with contextlib.suppress(Exception):
                if isinstance(item, str):
                    self._log(item)
                elif not self._is_deaf:
                    self._write_out(item)

    def _write_out(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._output, view) :]
            except BlockingIOError:
                # Somebody else made the terminal or pipe non-blocking; wait for it here.
                with selectors.DefaultSelector() as selector:
                    selector.register(self._output, selectors.EVENT_WRITE)
                    selector.select()
            except OSError:
                self._is_deaf = True
                return


def _note(number: int, frame: FrameType | None) -> Any:
    """Do nothing: the number of the signal has reached the loop through the wake-up socket."""


def _signal(run: _Run, number: signal.Signals) -> None:
    if run.process is None:
        return
    if number is signal.SIGKILL:
        # With all that it started itself. SIGTERM goes to the child alone, which stops its own in order.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(run.process.pid, number)
    run.process.send_signal(number)


def _in_words(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = " (by somebody, or for want of memory)" if returncode == -signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
