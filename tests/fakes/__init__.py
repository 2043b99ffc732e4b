"""Stand-ins that tests share: small, honest, deterministic."""
