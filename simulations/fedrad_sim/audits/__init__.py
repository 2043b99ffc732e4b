"""Attacks on our own training, each with a control that shows that it works: what they prove is held against what the account claims.

An audit can find that a claim is broken, never that it is kept: it gives a lower bound on epsilon, the account an upper one.
"""
