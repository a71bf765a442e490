"""First steps: the machine, the images and the first configuration."""
