"""Passes: functions from graphs to graphs; each states its claim, its invariant and its cost."""
