"""The life of a payment channel (BOLT 2) as pure functions over frozen state; `engine` is the way in."""
