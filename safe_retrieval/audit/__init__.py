"""Audits: how often a retriever hands over harmful passages, with benign recall beside it."""
