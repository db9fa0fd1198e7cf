"""How the commands print sizes."""


def megabytes(count: int) -> str:
    """A number of bytes for people: 1.25 MB, 312 kB, 96 bytes."""
    if count >= 1_000_000:
        return f"{count / 1e6:.2f} MB"
    return f"{count / 1e3:.0f} kB" if count >= 10_000 else f"{count} bytes"
