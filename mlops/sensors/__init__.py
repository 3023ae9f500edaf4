"""Find failing sensors: take readings in, train a clustering model of them, and score new ones."""
