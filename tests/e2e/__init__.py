"""End to end: real Bentos, a real local Ray, real HTTP clients."""
