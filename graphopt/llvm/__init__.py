"""Loop nests become LLVM IR text here."""
