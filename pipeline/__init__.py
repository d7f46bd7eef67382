"""The corridor: artifacts, store, stage protocol, config, recipes, runner, engines and records.

It knows no stage and no model.
"""
