"""The model executor: runs requests for networks on an NPU, and plans again whenever something changes."""

from tessera.firmware.executor.errors import ExecutorError
from tessera.firmware.executor.executor import Executor
from tessera.firmware.executor.history import Executed
from tessera.firmware.executor.log import Event, EventLog
from tessera.firmware.executor.networks import PreparedNetwork, prepare
from tessera.firmware.executor.requests import Request, RequestResult, Status
from tessera.firmware.executor.settings import Ageing, Preemption, Settings

__all__ = [
    "Ageing",
    "Event",
    "EventLog",
    "Executed",
    "Executor",
    "ExecutorError",
    "Preemption",
    "PreparedNetwork",
    "Request",
    "RequestResult",
    "Settings",
    "Status",
    "prepare",
]
