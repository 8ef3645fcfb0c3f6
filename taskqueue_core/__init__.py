"""A durable, bounded task queue on real threads, with SQLite behind it. Standard library only."""

from taskqueue_core import clock, points, watch
from taskqueue_core.closing import CloseReport
from taskqueue_core.database import DeadLetter, LedgerView
from taskqueue_core.errors import (
    ErrorClass,
    InvalidKeyError,
    KeyConflictError,
    LedgerError,
    LedgerInUseError,
    PermanentError,
    QueueClosedError,
    QueueFullError,
    TaskFailedError,
    TaskQueueError,
    TaskTimeoutError,
    TransientError,
    classify,
)
from taskqueue_core.faults import FaultInjector
from taskqueue_core.logs import JsonFormatter
from taskqueue_core.metrics import LatencyHistogram, Metrics, MetricsSnapshot
from taskqueue_core.objectstore import ObjectStat, ObjectStore
from taskqueue_core.plans import FaultPlan
from taskqueue_core.pool import WorkerPool
from taskqueue_core.processor import Processor, ProcessorLike
from taskqueue_core.publish import Output, output_key
from taskqueue_core.queue import TaskQueue
from taskqueue_core.retry import RetryPolicy
from taskqueue_core.settings import QueueSettings
from taskqueue_core.task import Status, Task, TaskRecord
from taskqueue_core.taskfile import TaskFileError, read_tasks

__all__ = [
    "CloseReport",
    "DeadLetter",
    "ErrorClass",
    "FaultInjector",
    "FaultPlan",
    "InvalidKeyError",
    "JsonFormatter",
    "KeyConflictError",
    "LatencyHistogram",
    "LedgerError",
    "LedgerInUseError",
    "LedgerView",
    "Metrics",
    "MetricsSnapshot",
    "ObjectStat",
    "ObjectStore",
    "Output",
    "PermanentError",
    "Processor",
    "ProcessorLike",
    "QueueClosedError",
    "QueueFullError",
    "QueueSettings",
    "RetryPolicy",
    "Status",
    "Task",
    "TaskFailedError",
    "TaskFileError",
    "TaskQueue",
    "TaskQueueError",
    "TaskRecord",
    "TaskTimeoutError",
    "TransientError",
    "WorkerPool",
    "classify",
    "clock",
    "output_key",
    "points",
    "read_tasks",
    "watch",
]
