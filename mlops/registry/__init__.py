"""The registered models: what is said of each version, which one is in production, and which one was before."""
