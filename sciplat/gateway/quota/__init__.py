"""Quotas: the decision, the ledger it is taken on, and what was used."""
