"""How files come in that nobody copied into a folder: sent by a PACS, or fetched from it."""
