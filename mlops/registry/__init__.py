"""The registered models: which version is in production, and which one was before."""
