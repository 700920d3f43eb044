"""Verification for those who hold no chain: headers by work, inclusion by Merkle branches, and what several helpers are worth."""
