"""Tell people how a run ended."""
