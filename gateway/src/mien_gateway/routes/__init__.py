"""What the gateway answers at which path."""
