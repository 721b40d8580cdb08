"""
Analytics: questions about all players of an experience, answered from Postgres.

`Analytics` asks, the shapes say what comes back; docs/analytics.md defines every number.
"""

from persistence.analytics.analytics import Analytics
from persistence.analytics.shapes import (
    ActiveDay,
    Bucket,
    Cohort,
    Completion,
    Content,
    Distribution,
    DropOff,
    Engagement,
    FunnelStep,
    QuestCompletion,
    RankedContent,
    Retention,
    UnknownName,
    Window,
)

__all__ = [
    "ActiveDay",
    "Analytics",
    "Bucket",
    "Cohort",
    "Completion",
    "Content",
    "Distribution",
    "DropOff",
    "Engagement",
    "FunnelStep",
    "QuestCompletion",
    "RankedContent",
    "Retention",
    "UnknownName",
    "Window",
]
