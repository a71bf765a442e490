"""The processes of one training: how they start, who leads, and what ends them."""
