"""How to join: networks, the shipped relay lists, the plan of joining. Imports only `protocols`."""
