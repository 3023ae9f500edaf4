"""Attacks on the installed platform: what they try, and how what comes of it is judged. tests/e2e runs them."""
