"""The graph IR: types, nodes and graphs, their text, and what a valid graph is."""
