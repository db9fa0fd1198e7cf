"""Names of other libraries for what graphopt has: programs written for them run after changing the import."""
