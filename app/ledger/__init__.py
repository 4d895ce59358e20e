"""The ledger: double entry, append-only, sealed against unnoticed edits."""
