"""What a node is made of, and how its larger parts are built; `rrnode.node` ties them together (DESIGN 3)."""

from rrnode.parts.given import Parts
from rrnode.parts.handling import Handling
from rrnode.parts.news import News
from rrnode.parts.performing import Performing

__all__ = ["Handling", "News", "Parts", "Performing"]
