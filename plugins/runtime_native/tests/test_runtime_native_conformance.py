"""The native runtime keeps the runtime contract."""

from pyengine.contracts.base import DriverContext
from pyengine.contracts.runtime import RuntimeDriver
from pyengine.testing.runtime import RuntimeDriverSuite
from pyengine_runtime_native import NativeRuntime


class TestNativeRuntime(RuntimeDriverSuite):
    def factory(self, context: DriverContext) -> RuntimeDriver:
        return NativeRuntime(context)
