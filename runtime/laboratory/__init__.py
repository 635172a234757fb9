"""Plans tried out: how fast, how good, how exactly the same; no service, no state."""
