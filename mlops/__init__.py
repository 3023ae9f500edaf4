"""The work that runs in Maestro's pods: one command a step, pure functions between one read and one write."""
