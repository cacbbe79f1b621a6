"""What is made of trained weights: figures, samples, an export. Each is cached by the weights and its own settings."""
