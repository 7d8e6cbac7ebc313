"""Recipients who must not be written to: opt-outs, numbers that WhatsApp does not know."""
