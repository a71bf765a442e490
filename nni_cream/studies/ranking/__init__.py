"""How well supernets rank architectures whose accuracy is known, and what a search would choose of them."""
