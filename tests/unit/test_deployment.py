"""What the container files promise, as far as it can be read from them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from disparo.cli import up

ROOT = Path(__file__).parent.parent.parent
HOME = "/var/lib/disparo"
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
WORKERS = ["worker-urgent", "worker-bulk"]
PROCESSES = [*WORKERS, "control", "beat", "web"]
#: The same process under its name in `disparo up`.
NAMES_IN_UP = {
    "worker-urgent": "urgent",
    "worker-bulk": "bulk-1",
    "control": "control",
    "beat": "beat",
    "web": "web",
}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_the_services_are_the_processes_of_an_installation():
    assert set(SERVICES) == {"postgres", "redis", "migrate", *PROCESSES, "sandbox"}


@pytest.mark.parametrize("service", PROCESSES)
def test_a_container_runs_the_command_that_up_starts(service):
    connections = SimpleNamespace(
        settings=SimpleNamespace(home=Path("home")), environment=SimpleNamespace(values={})
    )
    children = {child.name: child for child in up._children(connections, 1, up.WEB_PORT)}
    assert len(children) == len(PROCESSES), "a process of `up` has no container"
    program, *arguments = SERVICES[service]["command"]
    # A container listens to the others, and its worker needs no number: its host name tells it apart.
    given = [{"0.0.0.0": "127.0.0.1", "bulk@%h": "bulk-1@%h"}.get(word, word) for word in arguments]  # noqa: S104
    assert program == "python"
    assert given == list(children[NAMES_IN_UP[service]].argv[1:])


def test_redis_evicts_nothing_and_keeps_a_log():
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_everything_waits_for_the_tables():
    assert SERVICES["migrate"]["command"] == ["disparo", "db", "upgrade"]
    assert SERVICES["migrate"]["restart"] == "no"
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for service in PROCESSES:
        assert SERVICES[service]["depends_on"] == {
            "postgres": {"condition": "service_healthy"},
            "redis": {"condition": "service_healthy"},
            "migrate": {"condition": "service_completed_successfully"},
        }


@pytest.mark.parametrize("service", sorted(set(SERVICES) - {"migrate"}))
def test_what_stays_up_is_checked_and_started_again(service):
    assert SERVICES[service]["restart"] == "unless-stopped"
    assert SERVICES[service]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    # It would ask the worker through Redis, and remote control is off.
    assert "inspect" not in SERVICES[service]["healthcheck"]["test"]


def test_each_worker_is_asked_for_its_own_queue():
    for service in WORKERS:
        command = SERVICES[service]["command"]
        queue = command[command.index("-Q") + 1]
        assert SERVICES[service]["healthcheck"]["test"] == ["CMD", "python", "-m", "worker.health", queue]


@pytest.mark.parametrize("service", WORKERS)
def test_journals_outlive_the_container_of_a_worker(service):
    home = SERVICES[service]["environment"]["DISPARO_HOME"]
    assert SERVICES[service]["volumes"] == [f"journals:{home}"]
    assert "journals" in COMPOSE["volumes"]


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_is_given_the_time_to_drain(service):
    from worker.process import GRACE_SECONDS

    assert seconds(SERVICES[service]["stop_grace_period"]) >= max(30, GRACE_SECONDS + 10)
    assert SERVICES[service]["init"] is True


def test_no_secret_stands_in_the_files():
    # The password comes from `.env`, and the start is refused without it.
    assert (
        re.findall(r"PASSWORD: (.*)", COMPOSE_TEXT)
        == ["${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD in .env}"] * 2
    )
    assert not re.search(r"\w+://[^\s/]*:[^\s/]*@", COMPOSE_TEXT), "a password in an address"
    for text in (COMPOSE_TEXT, DOCKERFILE):
        assert not re.search(r"\bsk_\w{4,}|DISPARO_TOKEN_\w+=[\w-]", text)
    assert ".env" not in re.findall(r"^!(.*)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)


def test_tokens_reach_the_workers_only():
    with_tokens = {name for name, service in SERVICES.items() if "env_file" in service}
    assert with_tokens == set(WORKERS)
    for service in SERVICES.values():
        assert not any(name.startswith("DISPARO_TOKEN") for name in service.get("environment", {}))


def test_ports_are_open_to_this_host_only():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"web": ["127.0.0.1:8787:8787"], "sandbox": ["127.0.0.1:8900:8900"]}


def test_the_sandbox_runs_only_when_asked_for():
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"sandbox"}


def test_processes_use_the_servers_of_the_file_and_never_start_their_own():
    for service in [*PROCESSES, "migrate"]:
        environment = SERVICES[service]["environment"]
        assert environment["DISPARO_DATABASE_URL"].split("@")[1] == "postgres:5432/disparo"
        assert environment["DISPARO_REDIS_URL"] == "redis://redis:6379/0"


def test_the_one_that_tells_people_is_told_whom():
    # In `up` it is given the whole environment.
    names = {"DISPARO_NOTIFY_URL", "DISPARO_NOTIFY_COMMAND", "DISPARO_PROXY"}
    control, bulk = (SERVICES[name]["environment"] for name in ("control", "worker-bulk"))
    assert {name: control[name] for name in control if control[name] != bulk.get(name)} == {
        name: f"${{{name}:-}}" for name in names
    }


@pytest.mark.parametrize("service", ["worker-bulk", "control"])
def test_settings_of_the_file_exist(service):
    from disparo.settings import Environment as Source
    from disparo.settings import Settings, load

    given = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        for name, value in SERVICES[service]["environment"].items()
        if name.startswith("DISPARO_")
    }
    assert {name.removeprefix("DISPARO_").lower() for name in given} <= set(Settings.model_fields)
    settings = load(Source(given))
    plain = load(Source({"DISPARO_HOME": HOME}))
    assert (settings.base_url, settings.timezone, settings.log_level) == (
        plain.base_url,
        plain.timezone,
        plain.log_level,
    )


def test_images_are_pinned_and_name_no_registry():
    images = [service["image"] for service in SERVICES.values()] + re.findall(
        r"^FROM (\S+)", DOCKERFILE, re.MULTILINE
    )
    for image in set(images) - {"disparo"}:
        assert re.fullmatch(r"[a-z]+:\d+(\.\d+)*-[a-z-]+", image), image


def test_the_image_runs_as_a_user_of_a_fixed_number_that_owns_the_home():
    final = DOCKERFILE.split("FROM ")[-1]
    user, group = re.search(r"^USER (\d+):(\d+)$", final, re.MULTILINE).groups()
    assert int(user) >= 10_000
    assert f"--uid {user}" in final
    assert f"install -d -o {user} -g {group} -m 0700 {HOME}" in final
    assert f"DISPARO_HOME={HOME}" in final


def test_the_image_is_built_from_the_locked_packages():
    build, final = DOCKERFILE.split("FROM ")[1:]
    assert "--require-hashes -r /src/requirements/run.lock" in build
    assert "pip" not in final
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for needed in (
        "disparo",
        "worker",
        "scheduler",
        "web",
        "migrations",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        assert f"!{needed}" in ignored
        assert (ROOT / needed).exists()
