"""``python -m disparo``."""

from disparo.cli import main

if __name__ == "__main__":
    main()
