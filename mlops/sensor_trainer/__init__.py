"""The sensor trainer: takes readings in, trains a clustering model of them, and scores new ones.

A service of its own: `api` answers requests, `worker` trains, `model` is the model, `store` keeps readings and jobs.
`client` and `commands` are what a DAG has beside it.
"""
