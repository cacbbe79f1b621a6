"""tilth: raw text to a trained, evaluated language model."""
