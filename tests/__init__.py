"""The tests; they mirror `ray_canary/`, and `e2e/` runs the whole."""
