"""Types, protocols, recipe loading, cards, errors, random streams, the run directory. Imports no other area."""
