"""Data quality before approval: what a person should look at. Local, and nothing is changed for it (privacy.md, rule 5)."""
