"""How it travels: the only package that opens a connection to the provider."""
