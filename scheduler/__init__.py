"""The clock: ``celery -A scheduler beat`` and ``celery -A scheduler worker -Q control``."""
