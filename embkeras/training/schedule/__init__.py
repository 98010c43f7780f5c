"""What trains in which epoch, and at which learning rate."""
