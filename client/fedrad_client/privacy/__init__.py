"""What makes an update private and what it cost: training, noise, ledger."""
