"""Pipeline core: artifacts, store, stage protocol, configuration, recipes, runner, engines and documents.

Independent of all stages and models.
"""
