"""Data that is generated instead of read: one folder or file per corpus."""
