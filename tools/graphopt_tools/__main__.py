"""`python -m graphopt_tools` is the `graphopt` command."""

from graphopt_tools.main import app

app()
