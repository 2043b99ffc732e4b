"""One gradient a patient, clipped and summed at nearly the price of plain training: the pass, its parts, and the rule of each layer."""
