"""Errors, sorted by who must act (CONVENTIONS, "Errors")."""


class RrnodeError(Exception):
    """Base of every error this project raises on purpose."""


class PeerProtocolError(RrnodeError):
    """The peer broke a rule; that stream or channel ends, and the peer's record suffers."""


class DecodeError(PeerProtocolError):
    """Bytes that are no message of the protocol they came on."""


class MisuseError(RrnodeError, TypeError):
    """Our own bug: a caller broke a contract. The node takes on nothing new; no channel is closed for it."""
