"""NNI's model space as a supernet: activate, freeze and watch paths."""
