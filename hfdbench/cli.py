"""The verbs. Imports nothing heavy: every command imports what it needs."""
