"""``celery -A worker worker -Q urgent`` (or ``-Q bulk``)."""

from disparo import log
from disparo.connections import connect
from disparo.errors import DisparoError
from disparo.queue import make_celery
from worker.process import Process, attach
from worker.tasks import register

try:
    connections = connect(name="disparo-worker", pool_size=13, pre_ping=False)
    log.configure(connections.settings.log_level)
    app = make_celery("worker", connections.redis_url)
except DisparoError as err:
    raise SystemExit(f"this worker cannot start: {err}") from err
process = Process(connections)
attach(app, process)
register(app, process)
