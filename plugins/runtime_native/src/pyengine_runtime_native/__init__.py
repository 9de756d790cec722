"""An OCI runtime of system calls alone, made to run in a process that is warm already."""

from pyengine_runtime_native.driver import NativeRuntime

__all__ = ["NativeRuntime"]
