"""What ray-canary costs: it and its alternatives, side by side on one machine. `make bench` runs it."""
