"""The `graphopt` command: demo, show, bench, doctor, cache."""
