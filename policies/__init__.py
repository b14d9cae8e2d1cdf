"""VLA policies behind one pure interface; they know neither the harness nor the world model."""
