"""The token of each app: from the settings, or fetched once for all workers and renewed before it ends."""
