"""``disparo demo``: the whole thing on this machine."""


def demo() -> None:
    """Show a campaign, a cart reminder and a PIX batch with the sandbox, on servers of its own."""
