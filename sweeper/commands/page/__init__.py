"""What the live page is handed: what sweeps tell, and the acts that steer them."""
