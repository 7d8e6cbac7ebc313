"""The proxy that breaks the network for other tests, against a server that echoes."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tcp_proxy import TCPProxy


class Echo:
    """Sends each connection its own bytes back; counts what came."""

    def __init__(self, listener: socket.socket) -> None:
        self.received = 0
        self._listener = listener
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._echo, args=(connection,)))
            self._threads[-1].start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    self.received += len(data)
                    connection.sendall(data)
            except OSError:
                return

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(params=["tcp", "unix"])
def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Echo, Path | tuple[str, int]]]:
    if request.param == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
        address: Path | tuple[str, int] = listener.getsockname()
    else:
        listener = socket.socket(socket.AF_UNIX)
        address = tmp_path / "echo.sock"
        listener.bind(str(address))
        listener.listen()
    echo = Echo(listener)
    yield echo, address
    echo.stop()


@pytest.fixture
def echo(upstream: tuple[Echo, Path | tuple[str, int]]) -> Echo:
    return upstream[0]


@pytest.fixture
def proxy(upstream: tuple[Echo, Path | tuple[str, int]]) -> Iterator[TCPProxy]:
    with TCPProxy(upstream[1]) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: TCPProxy) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=10))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


Connect = Callable[[], socket.socket]


def said(connection: socket.socket, data: bytes) -> bytes:
    """What comes back for ``data``."""
    connection.sendall(data)
    return heard(connection, len(data))


def heard(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := connection.recv(65536)):
        data += part
    return data


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(0.1)
    try:
        return not connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)


def test_it_forwards_both_ways_and_tells_each_side_that_the_other_has_ended(
    proxy: TCPProxy, connect: Connect
) -> None:
    one, other = connect(), connect()
    assert said(one, b"x" * 300_000) == b"x" * 300_000
    assert said(other, b"y") == b"y"
    assert (proxy.connections, proxy.accepted) == (2, 2)
    one.shutdown(socket.SHUT_WR)
    assert one.recv(1) == b""
    until(lambda: proxy.connections == 1)


def test_it_refuses_new_connections_on_the_same_port_until_it_is_healed(
    proxy: TCPProxy, connect: Connect
) -> None:
    old = connect()
    assert said(old, b"before") == b"before"
    for _ in range(2):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect()
        assert said(old, b"still") == b"still"
        proxy.heal()
        assert said(connect(), b"again") == b"again"


def test_it_resets_every_connection_whatever_holds_it_up(proxy: TCPProxy, connect: Connect) -> None:
    all_of_them = [connect() for _ in range(5)]
    assert [said(one, b"x") for one in all_of_them] == [b"x"] * 5
    proxy.blackhole()
    all_of_them[0].sendall(b"x" * 100_000)
    assert proxy.cut() == 5
    assert proxy.connections == 0
    for one in all_of_them:
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    proxy.heal()
    assert said(connect(), b"new") == b"new"


def test_a_blackhole_swallows_one_way_or_both_and_gives_it_back_when_healed(
    proxy: TCPProxy, echo: Echo, connect: Connect
) -> None:
    old = connect()
    assert said(old, b"1") == b"1"
    proxy.blackhole(answers=False)
    old.sendall(b"2")
    assert is_silent(old)
    assert echo.received == 1
    proxy.heal()
    assert heard(old, 1) == b"2"

    proxy.blackhole(requests=False)
    old.sendall(b"3")
    until(lambda: echo.received == 3)
    assert is_silent(old)
    new = connect()
    new.sendall(b"4")
    until(lambda: echo.received == 4)
    assert is_silent(new)
    proxy.heal()
    assert (heard(old, 1), heard(new, 1)) == (b"3", b"4")


def test_a_network_that_is_gone_acknowledges_nothing(proxy: TCPProxy, connect: Connect) -> None:
    old = connect()
    assert said(old, b"1") == b"1"
    proxy.blackhole(acknowledges=False)
    old.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
    old.sendall(b"2")
    with pytest.raises(TimeoutError, match="Connection timed out"):
        old.recv(1)
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2)
    proxy.heal()
    assert said(connect(), b"new") == b"new"


def test_it_forgets_connections_for_good_and_takes_new_ones(
    proxy: TCPProxy, echo: Echo, connect: Connect
) -> None:
    old = connect()
    assert said(old, b"1") == b"1"
    assert proxy.forget() == 1
    old.sendall(b"2")
    proxy.heal()
    assert said(connect(), b"new") == b"new"
    assert is_silent(old)
    assert echo.received == 4
    assert proxy.cut() == 2


def test_a_slow_one_takes_its_time(proxy: TCPProxy, connect: Connect) -> None:
    one = connect()
    proxy.slow(1_000)
    began = time.monotonic()
    assert said(one, b"x" * 400) == b"x" * 400
    assert 0.3 <= time.monotonic() - began < 5
    proxy.heal()
    assert said(one, b"x" * 300_000) == b"x" * 300_000


def test_it_cuts_in_the_middle_of_an_answer(proxy: TCPProxy, connect: Connect) -> None:
    old = connect()
    assert said(old, b"12345") == b"12345"
    proxy.cut_after(3)
    for one in (old, connect()):
        one.sendall(b"abcdef")
        with pytest.raises(ConnectionResetError):
            heard(one, 4)
    proxy.heal()
    assert said(connect(), b"new") == b"new"


def test_an_upstream_that_is_not_there_is_a_reset(tmp_path: Path) -> None:
    def come_and_hear() -> None:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as one:
            one.recv(1)

    with TCPProxy(tmp_path / "nobody.sock") as proxy:
        with pytest.raises(ConnectionResetError):
            come_and_hear()
        until(lambda: proxy.connections == 0)


def test_it_can_be_closed_in_any_state(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = TCPProxy(listener.getsockname())
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as one:
        proxy.blackhole(acknowledges=False)
        proxy.refuse()
        proxy.close()
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    listener.close()
