"""The contestants of `graphopt bench`: one file per framework, each run by a Python that has the framework.

Nothing here imports graphopt's own packages, because a contestant's Python need not have them.
"""
