"""graphopt: the MindSpore program, run by graphopt."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt_tools.peers.mindspore_peer import Kit as MindSporeKit
else:
    MindSporeKit = import_module("mindspore_peer").Kit


class Kit(MindSporeKit):
    """MindSpore's kit over graphopt, which also counts what a step has to do."""

    def __init__(self, variant: str, threads: int) -> None:
        super().__init__(variant, threads, "graphopt")

    def counts(self) -> dict[str, int]:
        """What the compiled step consists of, and the work that no implementation can avoid: see count.py."""
        from graphopt_tools.count import counts

        return counts(self.made.compile_cache)
