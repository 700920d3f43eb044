"""What goes over the wire: one module per libp2p protocol (DESIGN 4)."""
