"""Telling one notification: a POST to an address, or a command that reads it on its standard input.

Either is done by a short-lived process (``python -m disparo.notifier``) that ends itself at its deadline,
whatever it waits for: a name that is being resolved cannot be given up within a process, and a receiver may
drip its answer for ever. It dies in time also when the process that started it is killed.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

#: From the first look for the address to the answer's status.
URL_SECONDS = 5
#: For a command and what it started.
COMMAND_SECONDS = 10
#: A process starts within this time, also on a busy machine.
_START_SECONDS = 10
#: After it the process was ended by its own alarm.
_OUT_OF_TIME = -signal.SIGALRM, -signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Hook:
    """Who is told: an address, or else a command."""

    url: str | None = field(default=None, repr=False)
    command: str | None = field(default=None, repr=False)
    #: PEM file of authorities that are trusted besides those of the system.
    ca_bundle: str | None = None
    #: ``http://`` address of the proxy towards ``url``; the environment names none.
    proxy: str | None = field(default=None, repr=False)


def tell(hook: Hook, notice: dict[str, Any], seconds: int | None = None) -> str | None:
    """Tell ``notice`` once, and wait for it: None when it was taken, else why not, in a sentence.

    Taken is an answer 2xx of the address, or exit code 0 of the command. A redirect is not followed. What is
    not taken may have been received all the same. The sentence holds neither the address nor what the
    receiver said, as either may hold a secret.

    Args:
      notice: Goes out as one JSON document.
      seconds: By default `URL_SECONDS` or `COMMAND_SECONDS`.
    """
    seconds = seconds or (URL_SECONDS if hook.url else COMMAND_SECONDS)
    order = {
        "url": hook.url,
        "command": shlex.split(hook.command or ""),
        "ca_bundle": hook.ca_bundle,
        "proxy": hook.proxy,
        "body": json.dumps(notice, ensure_ascii=False, default=str),
        "seconds": seconds,
    }
    try:
        done = subprocess.run(
            # The order stands in no argument, because everybody on the machine can read those.
            [sys.executable, "-m", "disparo.notifier"],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=_START_SECONDS + seconds,
            # A process group of its own, that ends as one.
            start_new_session=True,
            check=False,
        )
    except OSError as err:
        return f"no process could be started: {err.strerror}"
    except subprocess.TimeoutExpired:
        return f"not done within {seconds} seconds"
    if done.returncode == 0:
        return None
    if done.returncode in _OUT_OF_TIME:
        return f"not done within {seconds} seconds"
    # Only our own sentences begin so: a traceback might show the address.
    said = done.stdout.decode("utf-8", "replace")
    return said or f"the process that tells ended with {done.returncode}"


def _main() -> str | None:
    order = json.load(sys.stdin)
    # By default this signal ends a process wherever it is, in the resolver too.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(order["seconds"])
    body = order["body"].encode()
    if order["url"]:
        return _post(order["url"], body, order)
    return _run(order["command"], body, order["seconds"])


def _post(url: str, body: bytes, order: dict[str, Any]) -> str | None:
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

    class _Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            """Nowhere: the answer itself is the answer."""

    proxies = {"http": order["proxy"], "https": order["proxy"]} if order["proxy"] else {}
    try:
        context = ssl.create_default_context()
        if order["ca_bundle"]:
            context.load_verify_locations(order["ca_bundle"])
        opener = build_opener(ProxyHandler(proxies), HTTPSHandler(context=context), _Stay)
        headers = {"Content-Type": "application/json", "User-Agent": "disparo"}
        with opener.open(Request(url, body, headers)) as response:  # noqa: S310 - http and https only, by the settings
            status = response.status
    except HTTPError as err:
        status = err.code
    except URLError as err:
        why = err.reason
        if isinstance(why, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {why.verify_message}"
        return "no connection" + (f": {why.strerror}" if isinstance(why, OSError) and why.strerror else "")
    except (OSError, HTTPException, ValueError) as err:
        return f"no answer that is HTTP ({type(err).__name__})"
    return None if 200 <= status <= 299 else f"it answered HTTP {status}"


def _run(command: list[str], body: bytes, seconds: int) -> str | None:
    if not command:
        return "DISPARO_NOTIFY_URL names nobody any more"
    signal.alarm(0)
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own command
            command,
            input=body,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except OSError as err:
        return f"the command cannot be run: {err.strerror}"
    except subprocess.TimeoutExpired:
        # With all that it started, and this process.
        os.killpg(0, signal.SIGKILL)
        raise
    return None if done.returncode == 0 else f"the command ended with {done.returncode}"


if __name__ == "__main__":
    refusal = _main()
    sys.stdout.write(refusal or "")
    sys.exit(1 if refusal else 0)
