"""Tasks: each wires data, model, objective, search and metric."""
