"""What may be set, and what each setting means (DESIGN 2, 3, 9).

One definition per setting serves the type, the check, the comment in the file that `rrnode init` writes, and the
names of the environment variables.
"""

from rrnode.config.settings.fields import ConfigError
from rrnode.config.settings.sections import (
    AssetSettings,
    ChainSettings,
    ChannelSettings,
    FeeSettings,
    HostSettings,
    InfoSettings,
    LimitSettings,
    LockSettings,
    MailboxSettings,
    NodeSettings,
    PeerSettings,
    RoleSettings,
    StorageSettings,
    SubscriptionSettings,
    WaitSettings,
    WatchSettings,
)
from rrnode.config.settings.values import parse_neighbour_fee, parse_operator, parse_rate
from rrnode.config.settings.whole import NETWORK_DEFAULTS, SECTIONS, Settings, default_of

__all__ = [
    "NETWORK_DEFAULTS",
    "SECTIONS",
    "AssetSettings",
    "ChainSettings",
    "ChannelSettings",
    "ConfigError",
    "FeeSettings",
    "HostSettings",
    "InfoSettings",
    "LimitSettings",
    "LockSettings",
    "MailboxSettings",
    "NodeSettings",
    "PeerSettings",
    "RoleSettings",
    "Settings",
    "StorageSettings",
    "SubscriptionSettings",
    "WaitSettings",
    "WatchSettings",
    "default_of",
    "parse_neighbour_fee",
    "parse_operator",
    "parse_rate",
]
