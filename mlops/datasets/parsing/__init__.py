"""From files as people have them to columns of declared types; what cannot be read right is refused with the remedy."""
