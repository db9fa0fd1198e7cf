"""What a compiled step needs to run: memory, threads, native code, a cache. Knows nothing of the compiler."""

from .buffers import Arena, address, aligned_copy, aligned_empty
from .cache import Cache, CacheInfo, key_of
from .engine import EngineError, Loaded, Target, assembly, compile_ir, host, ir_after_passes, load
from .executor import Executable
from .limits import width
from .profile import KernelTime, Profile
from .program import BufferSpec, Call, Program, from_bytes, to_bytes
from .threads import stop_all, use_cache

__all__ = [
    "Arena",
    "BufferSpec",
    "Cache",
    "CacheInfo",
    "Call",
    "EngineError",
    "Executable",
    "KernelTime",
    "Loaded",
    "Profile",
    "Program",
    "Target",
    "address",
    "aligned_copy",
    "aligned_empty",
    "assembly",
    "compile_ir",
    "from_bytes",
    "host",
    "ir_after_passes",
    "key_of",
    "load",
    "stop_all",
    "to_bytes",
    "use_cache",
    "width",
]
