"""The web application: health now; REST producers, webhooks and the console later."""
