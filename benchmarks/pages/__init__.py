"""The sections of docs/evidence.md, a file for each result file."""
