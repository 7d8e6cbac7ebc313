"""The application that sends: ``celery -A worker worker -Q urgent`` and ``-Q bulk``."""
