"""Clean a table, choose the model's columns, and split it into training and test set."""
