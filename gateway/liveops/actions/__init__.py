"""What operators do to players and gateways: see service.py; catalogue.py is the table of it."""

from gateway.liveops.actions.service import LiveOpsActions

__all__ = ["LiveOpsActions"]
