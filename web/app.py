"""``uvicorn --factory web.app:create``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse

import disparo
from disparo import campaigns, log, schema
from disparo.connections import Connections, connect
from disparo.errors import DisparoError


def create() -> FastAPI:
    """The application, connected with the settings of this process."""
    try:
        connections = connect(name="disparo-web", pool_size=9)
    except DisparoError as err:
        raise SystemExit(f"the web application cannot start: {err}") from err
    log.configure(connections.settings.log_level)
    return make(connections)


def make(connections: Connections) -> FastAPI:
    """The application on given connections; they are given back when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        connections.close()

    app = FastAPI(title="Disparo", version=disparo.__version__, lifespan=lifespan)

    @app.get("/health/live")
    def live() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok", "version": disparo.__version__}

    @app.get("/health/ready")
    def ready() -> JSONResponse:
        """PostgreSQL, its schema, Redis and the workers: 200 when all is well, else 503 with what is not."""
        found: dict[str, str | int] = {}
        well = True
        try:
            schema.require_current(connections.engine)
            found["database"] = "ok"
            with connections.session() as session:
                found["workers"] = campaigns.live_workers(session)
        except DisparoError as err:
            found["database"], well = str(err), False
        try:
            connections.limiter.was_emptied()
            found["redis"] = "ok"
        except DisparoError as err:
            found["redis"], well = str(err), False
        return JSONResponse(found | {"status": "ok" if well else "unavailable"}, 200 if well else 503)

    return app
