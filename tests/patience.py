"""How long tests wait for other processes: it ends a hang, and says nothing about the speed of the machine."""

PATIENCE = 900.0  # seconds
