"""Does a queue keep what it promises? Each promise is played over a queue of its own; knows no pytest.

from pytest_taskqueue.conformance import examine

report = examine("mypkg:open_queue")
assert not report.broken
"""

from pytest_taskqueue.conformance.examination import examine
from pytest_taskqueue.conformance.outcomes import Outcome, Report, Status, Unfit

__all__ = ["Outcome", "Report", "Status", "Unfit", "examine"]
